// The arithmetic that every kernel is written in: W floats or 32-bit integers side by side.
//
// A lane replays the scalar order of ggml's reference for its own block, so the width changes no
// byte. Offered are only operations that IEEE 754 rounds exactly: no fused multiply-add, no
// reciprocal estimate, no sum across lanes. Comparisons give masks; `select` replaces branches.
// At width one everything is plain scalar code, which a GPU thread can run as well.
//
// All names have internal linkage: the same text is compiled for several instruction sets, and the
// linker must not mix them. (GCC cannot convert vectors of a dependent type, hence the overloads.)
#pragma once

#include <math.h>  // not <cmath>: nothing of std:: that the linker could take from another file

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
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

#if defined(__GNUC__)
template <>
struct Vector<4> {
    using F = float __attribute__((vector_size(16)));
    using I = int32_t __attribute__((vector_size(16)));
    using M = I;
};

template <>
struct Vector<8> {
    using F = float __attribute__((vector_size(32)));
    using I = int32_t __attribute__((vector_size(32)));
    using M = I;
};

template <>
struct Vector<16> {
    using F = float __attribute__((vector_size(64)));
    using I = int32_t __attribute__((vector_size(64)));
    using M = I;
};
#endif

// What is not an operator of the language. Overloaded for every width that the target has.

inline float to_float(int32_t v) {
    return static_cast<float>(v);
}
inline float square_root(float v) {
    return sqrtf(v);
}
inline bool any(bool m) {
    return m;
}

// Towards zero; what does not fit becomes the target's "indefinite" value, as in C on that target.
inline int32_t to_int(float v) {
#if defined(__SSE2__)
    return _mm_cvttss_si32(_mm_set_ss(v));
#else
    return static_cast<int32_t>(v);
#endif
}

inline float lookup16(const float * table, int32_t index) {
    return table[index];
}

// The mantissa of a float, under the exponent whose unit is 1: 2^23 + mantissa.
template <typename I>
inline I as_whole(I bits) {
    return (bits & 0x007fffff) | 0x4b000000;
}

#if defined(__SSE2__)
inline Vector<4>::F to_float(Vector<4>::I v) {
    return (Vector<4>::F)_mm_cvtepi32_ps((__m128i)v);
}
inline Vector<4>::I to_int(Vector<4>::F v) {
    return (Vector<4>::I)_mm_cvttps_epi32((__m128)v);
}
inline Vector<4>::F square_root(Vector<4>::F v) {
    return (Vector<4>::F)_mm_sqrt_ps((__m128)v);
}
inline bool any(Vector<4>::I m) {
    return _mm_movemask_ps((__m128)m) != 0;
}
#elif defined(__ARM_NEON)
inline Vector<4>::F to_float(Vector<4>::I v) {
    return (Vector<4>::F)vcvtq_f32_s32((int32x4_t)v);
}
inline Vector<4>::I to_int(Vector<4>::F v) {
    return (Vector<4>::I)vcvtq_s32_f32((float32x4_t)v);
}
inline Vector<4>::F square_root(Vector<4>::F v) {
    return (Vector<4>::F)vsqrtq_f32((float32x4_t)v);
}
inline bool any(Vector<4>::I m) {
    return vmaxvq_u32((uint32x4_t)m) != 0;
}
#endif

#if defined(__SSE2__) || defined(__ARM_NEON)
inline Vector<4>::F lookup16(const float * table, Vector<4>::I index) {
    return Vector<4>::F{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
}
#endif

#if defined(__AVX2__)
inline Vector<8>::F to_float(Vector<8>::I v) {
    return (Vector<8>::F)_mm256_cvtepi32_ps((__m256i)v);
}
inline Vector<8>::I to_int(Vector<8>::F v) {
    return (Vector<8>::I)_mm256_cvttps_epi32((__m256)v);
}
inline Vector<8>::F square_root(Vector<8>::F v) {
    return (Vector<8>::F)_mm256_sqrt_ps((__m256)v);
}
inline bool any(Vector<8>::I m) {
    return _mm256_movemask_ps((__m256)m) != 0;
}
inline Vector<8>::F lookup16(const float * table, Vector<8>::I index) {
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(table), (__m256i)index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), (__m256i)index);
    return (Vector<8>::F)_mm256_blendv_ps(low, high, (__m256)(index > 7));
}
#endif

#if defined(__AVX512F__)
inline Vector<16>::F to_float(Vector<16>::I v) {
    return (Vector<16>::F)_mm512_cvtepi32_ps((__m512i)v);
}
inline Vector<16>::I to_int(Vector<16>::F v) {
    return (Vector<16>::I)_mm512_cvttps_epi32((__m512)v);
}
inline Vector<16>::F square_root(Vector<16>::F v) {
    return (Vector<16>::F)_mm512_sqrt_ps((__m512)v);
}
inline Vector<16>::I as_whole(Vector<16>::I bits) {  // (a & b) | c at once
    return (Vector<16>::I)_mm512_ternarylogic_epi32((__m512i)bits, _mm512_set1_epi32(0x007fffff),
                                                    _mm512_set1_epi32(0x4b000000), 0xea);
}
inline bool any(Vector<16>::I m) {
    return _mm512_movepi32_mask((__m512i)m) != 0;
}
inline Vector<16>::F lookup16(const float * table, Vector<16>::I index) {
    return (Vector<16>::F)_mm512_permutexvar_ps((__m512i)index, _mm512_load_ps(table));
}
#endif

// The lanes of one width under the names that kernels use.
template <int W>
struct Lane {
    static constexpr int width = W;
    using F = typename Vector<W>::F;
    using I = typename Vector<W>::I;
    using M = typename Vector<W>::M;

    static constexpr float kMiddle = 12582912.f;  // 1.5 * 2^23
    static constexpr int32_t kMiddleBits = 0x4b400000;

    static F all(float v) { return v - F{}; }  // minus, so that -0 stays -0
    static I all(int32_t v) { return v + I{}; }

    static F select(M m, F a, F b) { return m ? a : b; }
    static I select(M m, I a, I b) { return m ? a : b; }

    // ggml's MIN(a, b) and MAX(a, b), with what they do to NaN and to zeros of both signs.
    static F min(F a, F b) { return a < b ? a : b; }
    static F max(F a, F b) { return a > b ? a : b; }
    static I min(I a, I b) { return a < b ? a : b; }
    static I max(I a, I b) { return a > b ? a : b; }

    static I bits(F v) {
        I result;
        std::memcpy(&result, &v, sizeof(result));
        return result;
    }
    static F from_bits(I v) {
        F result;
        std::memcpy(&result, &v, sizeof(result));
        return result;
    }

    // The lowest eight bits as a signed number.
    static I signed_byte(I v) { return ((v & 255) ^ 128) - 128; }

    static F abs(F v) { return from_bits(bits(v) & 0x7fffffff); }

    // ggml's nearest_int as a float: adds 1.5 * 2^23 and reads the integer from the mantissa. Also
    // where the argument is out of range or NaN, the result is the same integer.
    static F nearest(F v) { return from_bits(as_whole(bits(v + kMiddle))) - kMiddle; }

    // The same, clamped: as positive integers, which are in the order of the floats.
    static F nearest(F v, float low, float high) {
        const I whole = as_whole(bits(v + kMiddle));
        const I least = all(kMiddleBits + static_cast<int32_t>(low));
        const I most = all(kMiddleBits + static_cast<int32_t>(high));
        return from_bits(max(min(whole, most), least)) - kMiddle;
    }

    // The value of a binary16 in the lower bits. Exact.
    static F from_half(I h) {
        const I shifted = (h & 0x7fff) << 13;
        const F value = from_bits(shifted) * 0x1p112f;
        // Infinity and NaN have come out as 2^16 and more: their exponent has to be all ones.
        const I lift = select(shifted >= 0x0f800000, all(0x38000000), I{});
        return from_bits((bits(value) + lift) | (h & 0x8000) << 16);
    }

    // The nearest binary16, ties to even, in the lower bits. Too large becomes infinity.
    static I to_half(F v) {
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
