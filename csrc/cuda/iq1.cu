// IQ1_M and IQ1_S; without importance only the first.
#include <ggml.h>

#include "cuda/split.h"
#include "formats/iq1.h"

namespace apex::cuda {

std::vector<QuantizeKernel> iq1_kernels() {
    std::vector<QuantizeKernel> kernels;
    kernels.push_back(split_entry<Iq1M, false>(GGML_TYPE_IQ1_M));
    kernels.push_back(split_entry<Iq1M, true>(GGML_TYPE_IQ1_M));
    kernels.push_back(split_entry<Iq1S, true>(GGML_TYPE_IQ1_S));
    return kernels;
}

}  // namespace apex::cuda
