// Q4_K and Q5_K.
#include <ggml.h>

#include "cuda/levels.h"
#include "formats/q4_k_q5_k.h"

namespace apex::cuda {

std::vector<QuantizeKernel> q4_q5_kernels() {
    std::vector<QuantizeKernel> kernels;
    add_levels<Q45K<15>>(kernels, GGML_TYPE_Q4_K);
    add_levels<Q45K<31>>(kernels, GGML_TYPE_Q5_K);
    return kernels;
}

}  // namespace apex::cuda
