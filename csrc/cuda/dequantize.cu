// Blocks back to weights: a thread makes eight of them.
#include <ggml.h>

#include "cuda/weights.h"
#include "formats/iq1.h"
#include "formats/iq2.h"
#include "formats/iq3.h"
#include "formats/iq4.h"
#include "formats/mxfp4.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"
#include "formats/q4_k_q5_k.h"
#include "formats/q4_q5.h"
#include "formats/q6_k.h"
#include "formats/q8_0.h"

namespace apex::cuda {

namespace {

template <typename Format>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(DequantizeArguments arguments) {
    const ThreadBlock threads;
    constexpr uint32_t per_block = Format::weights / 8;
    const uint32_t first = threads.index() * kThreads;
    const uint32_t left = arguments.eights - first;
    threads.each(left < kThreads ? static_cast<int>(left) : kThreads, [&](int i) {
        const uint32_t eight = first + static_cast<uint32_t>(i);
        float values[8];
        Format::dequantize_eight(
            arguments.source + static_cast<int64_t>(eight / per_block) * Format::bytes,
            static_cast<int>(eight % per_block) * 8, values);
        auto * target = reinterpret_cast<Sixteen *>(arguments.target) + 2 * int64_t{eight};
        std::memcpy(target, values, sizeof(values));
    });
}

template <typename Format>
DequantizeKernel entry(int type) {
    return {type, dequantize_kernel<Format>, Format::weights, Format::bytes};
}

}  // namespace

std::vector<DequantizeKernel> dequantize_kernels() {
    return {
        entry<Q80>(GGML_TYPE_Q8_0),
        entry<Centered<8>>(GGML_TYPE_Q4_0),
        entry<Centered<16>>(GGML_TYPE_Q5_0),
        entry<Shifted<15>>(GGML_TYPE_Q4_1),
        entry<Shifted<31>>(GGML_TYPE_Q5_1),
        entry<Mxfp4>(GGML_TYPE_MXFP4),
        entry<Q2K>(GGML_TYPE_Q2_K),
        entry<Q3K>(GGML_TYPE_Q3_K),
        entry<Q45K<15>>(GGML_TYPE_Q4_K),
        entry<Q45K<31>>(GGML_TYPE_Q5_K),
        entry<Q6K>(GGML_TYPE_Q6_K),
        entry<Iq4<32>>(GGML_TYPE_IQ4_NL),
        entry<Iq4<256>>(GGML_TYPE_IQ4_XS),
        entry<Iq3S>(GGML_TYPE_IQ3_S),
        entry<Iq3Xxs>(GGML_TYPE_IQ3_XXS),
        entry<Iq2Xs<true>>(GGML_TYPE_IQ2_S),
        entry<Iq2Xs<false>>(GGML_TYPE_IQ2_XS),
        entry<Iq2Xxs>(GGML_TYPE_IQ2_XXS),
        entry<Iq1M>(GGML_TYPE_IQ1_M),
        entry<Iq1S>(GGML_TYPE_IQ1_S),
    };
}

}  // namespace apex::cuda
