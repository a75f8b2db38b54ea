// The nearest of a list of codebook points to one point: candidates side by side instead of blocks.
//
// A candidate's distance is a sum of one term per coordinate, and a term depends only on the
// candidate's level there: they are all computed first, and a candidate costs a lookup and an
// addition per coordinate. Every sum has its terms in the reference's order, and of equal distances
// the first in the list wins, as in ggml's iq2_find_best_neighbour and its like.
#pragma once

#include <float.h>

#include "lane/lanes.h"

namespace apex {
namespace {

// What the reference compares with first: a distance must be smaller than this to be taken.
constexpr float kFarthest = FLT_MAX;

struct Point {
    const float * x;
    const float * weight;
    float scale;
    const float * values;  // of the levels, filled up to a power of two
};

// terms[coordinate][level] = weight * (scale * value - x)^2, for the first `levels` of 1 << bits.
template <int coordinates, int bits, int levels, typename Terms>
APEX_HOST_DEVICE inline void distance_terms(const Point & point, Terms terms) {
    float scaled[levels];
    APEX_UNROLL
    for (int l = 0; l < levels; ++l) {
        scaled[l] = point.scale * point.values[l];
    }
    APEX_UNROLL
    for (int i = 0; i < coordinates; ++i) {
        const float x =
            point.x[i];  // before a term is written: for the compiler it could lie there
        const float weight = point.weight[i];
        APEX_UNROLL
        for (int l = 0; l < levels; ++l) {
            const float difference = scaled[l] - x;
            terms[(i << bits) + l] = weight * difference * difference;
        }
    }
}

// The nearest of 8 * eights codes, aligned to 32 bytes and readable to a multiple of 16: its
// position, or -1 where every distance is infinite or NaN.
template <int W, int coordinates, int bits>
struct NearestCode {
    static int find(const Point & point, const uint16_t * codes, int eights) {
        float terms[coordinates << bits];
        distance_terms<coordinates, bits, 1 << bits>(point, static_cast<float *>(terms));
        int best = -1;
        float least = kFarthest;
        for (int candidate = 0; candidate < 8 * eights; ++candidate) {
            float distance = 0;
            for (int i = 0; i < coordinates; ++i) {
                const int level = codes[candidate] >> (bits * i) & ((1 << bits) - 1);
                distance += terms[(i << bits) + level];
            }
            if (distance < least) {
                least = distance;
                best = candidate;
            }
        }
        return best;
    }
};

#if defined(__AVX2__)
template <int coordinates, int bits>
struct NearestCode<8, coordinates, bits> {
    static int find(const Point & point, const uint16_t * codes, int eights) {
        __m256 tables[coordinates];
        fill(point, tables);
        __m256 least = _mm256_set1_ps(kFarthest);
        __m256i best = _mm256_set1_epi32(-1);
        __m256i position = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        for (int step = 0; step < eights; ++step) {
            const __m128i * source = reinterpret_cast<const __m128i *>(codes + 8 * step);
            const __m256i code = _mm256_cvtepu16_epi32(_mm_load_si128(source));
            __m256 distance = _mm256_setzero_ps();
            for (int i = 0; i < coordinates; ++i) {
                const __m256i level = _mm256_srli_epi32(code, bits * i);
                distance =
                    _mm256_add_ps(distance, bits == 2 ? _mm256_permutevar_ps(tables[i], level)
                                                      : _mm256_permutevar8x32_ps(tables[i], level));
            }
            const __m256 closer = _mm256_cmp_ps(distance, least, _CMP_LT_OQ);
            least = _mm256_blendv_ps(least, distance, closer);
            best = _mm256_blendv_epi8(best, position, _mm256_castps_si256(closer));
            position = _mm256_add_epi32(position, _mm256_set1_epi32(8));
        }
        __m256 all = _mm256_min_ps(least, _mm256_permute2f128_ps(least, least, 1));
        all = _mm256_min_ps(all, _mm256_permute_ps(all, 0x4e));
        all = _mm256_min_ps(all, _mm256_permute_ps(all, 0xb1));
        // Of the candidates at the least distance the first, as unsigned so that -1 comes last.
        const __m256i equal = _mm256_castps_si256(_mm256_cmp_ps(least, all, _CMP_EQ_OQ));
        __m256i first = _mm256_or_si256(best, _mm256_xor_si256(equal, _mm256_set1_epi32(-1)));
        first = _mm256_min_epu32(first, _mm256_permute2x128_si256(first, first, 1));
        first = _mm256_min_epu32(first, _mm256_shuffle_epi32(first, 0x4e));
        first = _mm256_min_epu32(first, _mm256_shuffle_epi32(first, 0xb1));
        return _mm256_cvtsi256_si32(first);
    }

  private:
    // The terms of every coordinate: eight levels, or four twice.
    static void fill(const Point & point, __m256 * tables) {
        const __m256 scale = _mm256_set1_ps(point.scale);
        if constexpr (bits == 3) {
            const __m256 scaled = _mm256_mul_ps(scale, _mm256_loadu_ps(point.values));
            for (int i = 0; i < coordinates; ++i) {
                tables[i] = terms(scaled, _mm256_broadcast_ss(point.x + i),
                                  _mm256_broadcast_ss(point.weight + i));
            }
        } else {
            const __m256 scaled = _mm256_mul_ps(
                scale, _mm256_broadcast_ps(reinterpret_cast<const __m128 *>(point.values)));
            const __m256 x = _mm256_loadu_ps(point.x);
            const __m256 weight = _mm256_loadu_ps(point.weight);
            for (int i = 0; i < coordinates; i += 2) {
                const __m256i two = _mm256_setr_epi32(i, i, i, i, i + 1, i + 1, i + 1, i + 1);
                const __m256 both = terms(scaled, _mm256_permutevar8x32_ps(x, two),
                                          _mm256_permutevar8x32_ps(weight, two));
                tables[i] = _mm256_permute2f128_ps(both, both, 0x00);
                tables[i + 1] = _mm256_permute2f128_ps(both, both, 0x11);
            }
        }
    }

    static __m256 terms(__m256 scaled, __m256 x, __m256 weight) {
        const __m256 difference = _mm256_sub_ps(scaled, x);
        return _mm256_mul_ps(_mm256_mul_ps(weight, difference), difference);
    }
};
#endif

#if defined(__AVX512F__)
template <int coordinates, int bits>
struct NearestCode<16, coordinates, bits> {
    static int find(const Point & point, const uint16_t * codes, int eights) {
        __m512 tables[coordinates];
        fill(point, tables);
        __m512 least = _mm512_set1_ps(kFarthest);
        __m512i best = _mm512_set1_epi32(-1);
        __m512i position = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int step = 0; 2 * step < eights; ++step) {
            const __m256i * source = reinterpret_cast<const __m256i *>(codes + 16 * step);
            const __m512i code = _mm512_cvtepu16_epi32(_mm256_load_si256(source));
            __m512 distance = _mm512_setzero_ps();
            for (int i = 0; i < coordinates; ++i) {
                const __m512i level = _mm512_srli_epi32(code, bits * i);
                distance =
                    _mm512_add_ps(distance, bits == 2 ? _mm512_permutevar_ps(tables[i], level)
                                                      : _mm512_permutexvar_ps(level, tables[i]));
            }
            const __mmask16 closer = _mm512_cmp_ps_mask(distance, least, _CMP_LT_OQ);
            least = _mm512_mask_mov_ps(least, closer, distance);
            best = _mm512_mask_mov_epi32(best, closer, position);
            position = _mm512_add_epi32(position, _mm512_set1_epi32(16));
        }
        // No distance is NaN any more.
        const __m512 all = _mm512_set1_ps(_mm512_reduce_min_ps(least));
        const __mmask16 equal = _mm512_cmp_ps_mask(least, all, _CMP_EQ_OQ);
        if (eights <= 2) {  // the positions are those of the lanes, or -1 where all are too far
            const int lane = __builtin_ctz(equal);
            return _mm512_cvtss_f32(all) < kFarthest ? lane : -1;
        }
        // Unsigned, so that -1 comes last.
        return static_cast<int>(_mm512_mask_reduce_min_epu32(equal, best));
    }

  private:
    // The terms of every coordinate: four levels four times, or eight twice.
    static void fill(const Point & point, __m512 * tables) {
        const __m512 scale = _mm512_set1_ps(point.scale);
        if constexpr (bits == 3) {
            const __m512 scaled =
                _mm512_mul_ps(scale, _mm512_broadcast_f32x8(_mm256_loadu_ps(point.values)));
            const __m512 x = _mm512_broadcast_f32x4(_mm_loadu_ps(point.x));
            const __m512 weight = _mm512_broadcast_f32x4(_mm_loadu_ps(point.weight));
            for (int i = 0; i < coordinates; i += 2) {
                const __m512i two = _mm512_setr_epi32(i, i, i, i, i, i, i, i, i + 1, i + 1, i + 1,
                                                      i + 1, i + 1, i + 1, i + 1, i + 1);
                const __m512 both =
                    terms(scaled, _mm512_permutevar_ps(x, two), _mm512_permutevar_ps(weight, two));
                tables[i] = _mm512_shuffle_f32x4(both, both, 0x44);
                tables[i + 1] = _mm512_shuffle_f32x4(both, both, 0xee);
            }
        } else {
            const __m512 scaled =
                _mm512_mul_ps(scale, _mm512_broadcast_f32x4(_mm_loadu_ps(point.values)));
            const __m512 x = _mm512_broadcast_f32x8(_mm256_loadu_ps(point.x));
            const __m512 weight = _mm512_broadcast_f32x8(_mm256_loadu_ps(point.weight));
            for (int i = 0; i < coordinates; i += 4) {
                const __m512i four =
                    _mm512_setr_epi32(i, i, i, i, i + 1, i + 1, i + 1, i + 1, i + 2, i + 2, i + 2,
                                      i + 2, i + 3, i + 3, i + 3, i + 3);
                const __m512 all = terms(scaled, _mm512_permutexvar_ps(four, x),
                                         _mm512_permutexvar_ps(four, weight));
                tables[i] = _mm512_shuffle_f32x4(all, all, 0x00);
                tables[i + 1] = _mm512_shuffle_f32x4(all, all, 0x55);
                tables[i + 2] = _mm512_shuffle_f32x4(all, all, 0xaa);
                tables[i + 3] = _mm512_shuffle_f32x4(all, all, 0xff);
            }
        }
    }

    static __m512 terms(__m512 scaled, __m512 x, __m512 weight) {
        const __m512 difference = _mm512_sub_ps(scaled, x);
        return _mm512_mul_ps(_mm512_mul_ps(weight, difference), difference);
    }
};
#endif

}  // namespace
}  // namespace apex
