// IQ4_NL and IQ4_XS.
#include <ggml.h>

#include "cuda/levels.h"
#include "formats/iq4.h"

namespace apex::cuda {

std::vector<QuantizeKernel> iq4_kernels() {
    std::vector<QuantizeKernel> kernels;
    add_levels<Iq4<32>>(kernels, GGML_TYPE_IQ4_NL);
    add_levels<Iq4<256>>(kernels, GGML_TYPE_IQ4_XS);
    return kernels;
}

}  // namespace apex::cuda
