// Q6_K.
#include <ggml.h>

#include "cuda/levels.h"
#include "formats/q6_k.h"

namespace apex::cuda {

std::vector<QuantizeKernel> q6_kernels() {
    std::vector<QuantizeKernel> kernels;
    add_levels<Q6K>(kernels, GGML_TYPE_Q6_K);
    return kernels;
}

}  // namespace apex::cuda
