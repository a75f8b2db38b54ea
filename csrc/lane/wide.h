// Lanes of 4, 8 and 16 as vectors of the compiler. (GCC cannot convert vectors of a dependent type,
// hence the overloads.)
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace apex {
namespace {

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

#if defined(__GNUC__)
template <typename F>
inline F add_middle(F v, float middle) {
    return v + middle;
}
#endif

}  // namespace
}  // namespace apex
