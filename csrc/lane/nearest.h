// The nearest of a list of codebook points to one point: candidates side by side instead of blocks.
//
// A candidate's distance is a sum of one term per coordinate, and a term depends only on the
// candidate's level there: `terms` holds them all, so a candidate costs a lookup and an addition
// per coordinate. Every sum has its terms in the reference's order, and of equal distances the
// first in the list wins, as in ggml's iq2_find_best_neighbour and its like.
#pragma once

#include <float.h>

#include "lane/lane.h"

namespace apex {
namespace {

// What the reference compares with first: a distance must be smaller than this to be taken.
constexpr float kFarthest = FLT_MAX;

// Position in `codes`, a whole number of units of 16, or -1 where every distance is infinite or
// NaN. terms[coordinate][level] has 4 levels for 8 coordinates of 2 bits, 8 for 4 of 3 bits.
template <int coordinates, int bits>
inline int nearest_scalar(const float * terms, const uint16_t * codes, int units) {
    int best = -1;
    float least = kFarthest;
    for (int candidate = 0; candidate < 16 * units; ++candidate) {
        float distance = 0;
        for (int i = 0; i < coordinates; ++i) {
            distance += terms[(i << bits) + (codes[candidate] >> (bits * i) & ((1 << bits) - 1))];
        }
        if (distance < least) {
            least = distance;
            best = candidate;
        }
    }
    return best;
}

template <int W, int coordinates, int bits>
struct NearestCode {
    static int find(const float * terms, const uint16_t * codes, int units) {
        return nearest_scalar<coordinates, bits>(terms, codes, units);
    }
};

#if defined(__AVX2__)
template <int coordinates, int bits>
struct NearestCode<8, coordinates, bits> {
    static int find(const float * terms, const uint16_t * codes, int units) {
        __m256 least = _mm256_set1_ps(kFarthest);
        __m256i best = _mm256_set1_epi32(-1);
        __m256i position = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        for (int step = 0; step < 2 * units; ++step) {
            const __m128i * source = reinterpret_cast<const __m128i *>(codes + 8 * step);
            const __m256i code = _mm256_cvtepu16_epi32(_mm_load_si128(source));
            __m256 distance = _mm256_setzero_ps();
            for (int i = 0; i < coordinates; ++i) {
                const __m256i level = _mm256_srli_epi32(code, bits * i);
                __m256 term;
                if constexpr (bits == 2) {
                    const __m256 table =
                        _mm256_broadcast_ps(reinterpret_cast<const __m128 *>(terms + 4 * i));
                    term = _mm256_permutevar_ps(table, level);
                } else {
                    term = _mm256_permutevar8x32_ps(_mm256_load_ps(terms + 8 * i), level);
                }
                distance = _mm256_add_ps(distance, term);
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
};
#endif

#if defined(__AVX512F__)
template <int coordinates, int bits>
struct NearestCode<16, coordinates, bits> {
    static int find(const float * terms, const uint16_t * codes, int units) {
        __m512 least = _mm512_set1_ps(kFarthest);
        __m512i best = _mm512_set1_epi32(-1);
        __m512i position = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int step = 0; step < units; ++step) {
            const __m256i * source = reinterpret_cast<const __m256i *>(codes + 16 * step);
            const __m512i code = _mm512_cvtepu16_epi32(_mm256_load_si256(source));
            __m512 distance = _mm512_setzero_ps();
            for (int i = 0; i < coordinates; ++i) {
                const __m512i level = _mm512_srli_epi32(code, bits * i);
                __m512 term;
                if constexpr (bits == 2) {
                    term = _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_load_ps(terms + 4 * i)),
                                                level);
                } else {
                    term = _mm512_permutexvar_ps(
                        level, _mm512_broadcast_f32x8(_mm256_load_ps(terms + 8 * i)));
                }
                distance = _mm512_add_ps(distance, term);
            }
            const __mmask16 closer = _mm512_cmp_ps_mask(distance, least, _CMP_LT_OQ);
            least = _mm512_mask_mov_ps(least, closer, distance);
            best = _mm512_mask_mov_epi32(best, closer, position);
            position = _mm512_add_epi32(position, _mm512_set1_epi32(16));
        }
        // No distance is NaN any more.
        const __m512 all = _mm512_set1_ps(_mm512_reduce_min_ps(least));
        const __mmask16 equal = _mm512_cmp_ps_mask(least, all, _CMP_EQ_OQ);
        if (units == 1) {  // the positions are those of the lanes, or -1 where all are too far
            const int lane = __builtin_ctz(equal);
            return _mm512_cvtss_f32(all) < kFarthest ? lane : -1;
        }
        // Unsigned, so that -1 comes last.
        return static_cast<int>(_mm512_mask_reduce_min_epu32(equal, best));
    }
};
#endif

}  // namespace
}  // namespace apex
