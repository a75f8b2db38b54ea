// The arithmetic that every kernel is written in: W floats or 32-bit integers side by side.
//
// A lane replays the scalar order of ggml's reference for its own block, so the width changes no
// byte. Offered are only operations that IEEE 754 rounds exactly: no fused multiply-add, no
// reciprocal estimate, no sum across lanes. Comparisons give masks; `select` replaces branches.
// At width one everything is plain scalar code, which a GPU thread runs as well; the wider ones are
// in lane/wide.h.
//
// All names have internal linkage: the same text is compiled for several instruction sets, and the
// linker must not mix them.
#pragma once

#include <math.h>  // not <cmath>: nothing of std:: that the linker could take from another file

#include <cstdint>
#include <cstring>

#include "lane/target.h"

#if defined(__SSE2__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace apex {
namespace {

template <int W>
struct Vector;

template <>
struct Vector<1> {
    using F = float;
    using I = int32_t;
    using M = bool;
};

// What is not an operator of the language. Overloaded for every width.

APEX_HOST_DEVICE inline float to_float(int32_t v) {
    return static_cast<float>(v);
}
APEX_HOST_DEVICE inline float square_root(float v) {
    return sqrtf(v);
}
APEX_HOST_DEVICE inline bool any(bool m) {
    return m;
}

// Towards zero; what does not fit becomes the target's "indefinite" value, as in C on that target.
APEX_HOST_DEVICE inline int32_t to_int(float v) {
#if defined(__CUDA_ARCH__) && defined(__x86_64__)
    // What the processor beside this GPU makes of it.
    return v >= -0x1p31f && v < 0x1p31f ? static_cast<int32_t>(v) : INT32_MIN;
#elif defined(__SSE2__) && !defined(__CUDACC__)
    return _mm_cvttss_si32(_mm_set_ss(v));
#else
    return static_cast<int32_t>(v);
#endif
}

APEX_HOST_DEVICE inline float lookup16(const float * table, int32_t index) {
    return table[index];
}

// The mantissa of a float, under the exponent whose unit is 1: 2^23 + mantissa.
template <typename I>
APEX_HOST_DEVICE inline I as_whole(I bits) {
    return (bits & 0x007fffff) | 0x4b000000;
}

// The sum whose mantissa Lanes::nearest reads.
APEX_HOST_DEVICE inline float add_middle(float v, float middle) {
    const float sum = v + middle;
#if defined(__CUDA_ARCH__)
    // The mantissa of a processor's NaN is that of the middle itself; a GPU's NaN has another.
    return sum != sum ? middle : sum;
#else
    return sum;
#endif
}

}  // namespace
}  // namespace apex

#if !defined(__CUDACC__)
#include "lane/wide.h"
#endif

namespace apex {
namespace {

// The lanes of one width under the names that kernels use.
template <int W>
struct Lanes {
    static constexpr int width = W;
    using F = typename Vector<W>::F;
    using I = typename Vector<W>::I;
    using M = typename Vector<W>::M;

    static constexpr float kMiddle = 12582912.f;  // 1.5 * 2^23
    static constexpr int32_t kMiddleBits = 0x4b400000;

    APEX_HOST_DEVICE static F all(float v) { return v - F{}; }  // minus, so that -0 stays -0
    APEX_HOST_DEVICE static I all(int32_t v) { return v + I{}; }

    APEX_HOST_DEVICE static F select(M m, F a, F b) { return m ? a : b; }
    APEX_HOST_DEVICE static I select(M m, I a, I b) { return m ? a : b; }

    // ggml's MIN(a, b) and MAX(a, b), with what they do to NaN and to zeros of both signs.
    APEX_HOST_DEVICE static F min(F a, F b) { return a < b ? a : b; }
    APEX_HOST_DEVICE static F max(F a, F b) { return a > b ? a : b; }
    APEX_HOST_DEVICE static I min(I a, I b) { return a < b ? a : b; }
    APEX_HOST_DEVICE static I max(I a, I b) { return a > b ? a : b; }

    APEX_HOST_DEVICE static I bits(F v) {
        I result;
        std::memcpy(&result, &v, sizeof(result));
        return result;
    }
    APEX_HOST_DEVICE static F from_bits(I v) {
        F result;
        std::memcpy(&result, &v, sizeof(result));
        return result;
    }

    // The lowest eight bits as a signed number.
    APEX_HOST_DEVICE static I signed_byte(I v) { return ((v & 255) ^ 128) - 128; }

    APEX_HOST_DEVICE static F abs(F v) { return from_bits(bits(v) & 0x7fffffff); }

    // ggml's nearest_int as a float: adds 1.5 * 2^23 and reads the integer from the mantissa. Also
    // where the argument is out of range or NaN, the result is the same integer.
    APEX_HOST_DEVICE static F nearest(F v) {
        return from_bits(as_whole(bits(add_middle(v, kMiddle)))) - kMiddle;
    }

    // The same, clamped: as positive integers, which are in the order of the floats.
    APEX_HOST_DEVICE static F nearest(F v, float low, float high) {
        const I whole = as_whole(bits(add_middle(v, kMiddle)));
        const I least = all(kMiddleBits + static_cast<int32_t>(low));
        const I most = all(kMiddleBits + static_cast<int32_t>(high));
        return from_bits(max(min(whole, most), least)) - kMiddle;
    }

    // The value of a binary16 in the lower bits. Exact.
    APEX_HOST_DEVICE static F from_half(I h) {
        const I shifted = (h & 0x7fff) << 13;
        const F value = from_bits(shifted) * 0x1p112f;
        // Infinity and NaN have come out as 2^16 and more: their exponent has to be all ones.
        const I lift = select(shifted >= 0x0f800000, all(0x38000000), I{});
        return from_bits((bits(value) + lift) | (h & 0x8000) << 16);
    }

    // The nearest binary16, ties to even, in the lower bits. Too large becomes infinity.
    APEX_HOST_DEVICE static I to_half(F v) {
        const I sign = bits(v) >> 16 & 0x8000;
        const I a = bits(v) & 0x7fffffff;
        const I rounded = (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13;
        const I normal = min(rounded, all(0x7c00));
        const I tiny = bits(from_bits(a) + 0.5f) - 0x3f000000;  // 0.5 has the unit of a subnormal
        const I finite = select(a < 0x38800000, tiny, normal);
        return select(a > 0x7f800000, all(0x7e00), finite) | sign;
    }
};

}  // namespace
}  // namespace apex
