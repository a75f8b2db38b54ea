// IQ3_XXS and IQ3_S.
#include <ggml.h>

#include "cuda/codebook.h"
#include "formats/iq3.h"

namespace apex::cuda {

std::vector<QuantizeKernel> iq3_kernels() {
    std::vector<QuantizeKernel> kernels;
    kernels.push_back(codebook_entry<Iq3Xxs, false>(GGML_TYPE_IQ3_XXS));
    kernels.push_back(codebook_entry<Iq3Xxs, true>(GGML_TYPE_IQ3_XXS));
    kernels.push_back(codebook_entry<Iq3S, false>(GGML_TYPE_IQ3_S));
    kernels.push_back(codebook_entry<Iq3S, true>(GGML_TYPE_IQ3_S));
    return kernels;
}

}  // namespace apex::cuda
