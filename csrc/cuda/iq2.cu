// IQ2_XXS, IQ2_XS and IQ2_S; without importance only the last.
#include <ggml.h>

#include "cuda/codebook.h"
#include "formats/iq2.h"

namespace apex::cuda {

std::vector<QuantizeKernel> iq2_kernels() {
    std::vector<QuantizeKernel> kernels;
    kernels.push_back(codebook_entry<Iq2Xxs, true>(GGML_TYPE_IQ2_XXS));
    kernels.push_back(codebook_entry<Iq2Xs<false>, true>(GGML_TYPE_IQ2_XS));
    kernels.push_back(codebook_entry<Iq2Xs<true>, false>(GGML_TYPE_IQ2_S));
    kernels.push_back(codebook_entry<Iq2Xs<true>, true>(GGML_TYPE_IQ2_S));
    return kernels;
}

}  // namespace apex::cuda
