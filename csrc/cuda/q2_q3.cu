// Q2_K and Q3_K.
#include <ggml.h>

#include "cuda/levels.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"

namespace apex::cuda {

std::vector<QuantizeKernel> q2_q3_kernels() {
    std::vector<QuantizeKernel> kernels;
    add_levels<Q2K>(kernels, GGML_TYPE_Q2_K);
    add_levels<Q3K>(kernels, GGML_TYPE_Q3_K);
    return kernels;
}

}  // namespace apex::cuda
