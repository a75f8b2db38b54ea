// Blocks of 32 weights.
#include <ggml.h>

#include "cuda/levels.h"
#include "formats/mxfp4.h"
#include "formats/q4_q5.h"
#include "formats/q8_0.h"

namespace apex::cuda {

std::vector<QuantizeKernel> small_kernels() {
    std::vector<QuantizeKernel> kernels;
    add_levels<Q80>(kernels, GGML_TYPE_Q8_0);
    add_levels<Centered<8>>(kernels, GGML_TYPE_Q4_0);
    add_levels<Centered<16>>(kernels, GGML_TYPE_Q5_0);
    add_levels<Shifted<15>>(kernels, GGML_TYPE_Q4_1);
    add_levels<Shifted<31>>(kernels, GGML_TYPE_Q5_1);
    add_levels<Mxfp4>(kernels, GGML_TYPE_MXFP4);
    return kernels;
}

}  // namespace apex::cuda
