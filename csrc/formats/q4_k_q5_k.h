// Q4_K and Q5_K. Byte layouts, d and dmin being binary16:
//   Q4_K 144   d, dmin, scales 12 (8 x 6-bit scale, 8 x 6-bit min), qs 128
//   Q5_K 176   d, dmin, scales 12, qh 32, qs 128
// Equal to ggml's quantize_row_q4_K_ref, with importance quantize_row_q4_K_impl, and
// dequantize_row_q4_K, and so on.
#pragma once

#include "formats/affine_parts.h"

namespace apex {
namespace {

// The scale and the minimum of part j, from their twelve bytes. Those of the first four parts are
// whole; of the others' six bits, the upper two are above those.
template <typename Packed>
APEX_HOST_DEVICE inline auto six_bit_scale(const Packed * packed, int j) {
    return j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
}
template <typename Packed>
APEX_HOST_DEVICE inline auto six_bit_min(const Packed * packed, int j) {
    return j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
}

// Q4_K and Q5_K differ in the number of levels and in where the fifth bit goes.
template <int limit>
struct Q45K : SuperFormat {
    static constexpr bool five = limit == 31;
    static constexpr int bytes = five ? 176 : 144;
    static constexpr int parts = 8;
    using halves = Halves<0, 2>;

    template <typename L>
    using Found = AffinePart<L>;
    template <typename L>
    using Scales = AffineScales<L, 8>;

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        return weighted ? 2.f * sum_of_squares<L, kSuper>(x) / 256.f : L::all(0.f);
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        typename L::F * weight, typename L::F sigma2,
                                        Found<L> * found, typename L::I *) {
        if constexpr (weighted) {
            found->sum = importance_weights<L, 32>(x, sigma2, weight);
            found->affine = search_affine<L, 32>(x, weight, limit, {-0.9f, 0.05f, 36, false});
        } else {
            const auto average = square_root(sum_of_squares<L, 32>(x) / 32.f);
            APEX_UNROLL
            for (int i = 0; i < 32; ++i) {
                weight[i] = average + L::abs(x[i]);
            }
            constexpr AffineSteps steps =
                five ? AffineSteps{-0.5f, 0.1f, 15, false} : AffineSteps{-1.f, 0.1f, 20, false};
            found->sum = L::all(0.f);
            found->affine = search_affine<L, 32>(x, weight, limit, steps);
        }
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const Found<L> * found,
                                         Scales<L> * scales, Out out) {
        using I = typename L::I;
        I ls[8], lm[8];
        const auto rounded = round_affine<L, 8, weighted>(found, 63, ls, lm);
        put_half(rounded.half_d, out);
        put_half(rounded.half_dmin, out + 2);
        APEX_UNROLL
        for (int j = 0; j < 8; ++j) {
            if (five || !weighted) {  // Q4_K with importance alone does not clamp
                ls[j] = L::min(L::all(63), ls[j] & 255);
                lm[j] = L::min(L::all(63), lm[j] & 255);
            }
        }
        I packed[12];
        APEX_UNROLL
        for (int j = 0; j < 4; ++j) {
            packed[j] = (ls[j] | ls[j + 4] >> 4 << 6) & 255;
            packed[4 + j] = (lm[j] | lm[j + 4] >> 4 << 6) & 255;
            packed[8 + j] = (ls[j + 4] & 15) | (lm[j + 4] & 15) << 4;
        }
        APEX_UNROLL
        for (int j = 0; j < 12; ++j) {
            out[4 + j] = packed[j];
        }
        // Read back, as the reference does: without a clamp a value may not have fitted.
        APEX_UNROLL
        for (int j = 0; j < 8; ++j) {
            scales->scale[j] = rounded.d * to_float(six_bit_scale(packed, j));
            scales->min[j] = rounded.dmin * to_float(six_bit_min(packed, j));
        }
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> & scales, int j,
                                       typename L::I * l) {
        requantize<L, 32>(x, scales.scale[j], scales.min[j], found.affine, limit, l);
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        if constexpr (five) {
            for (int i = 0; i < 32; ++i) {
                auto high = l[i] >> 4;
                for (int j = 1; j < 8; ++j) {
                    high |= l[32 * j + i] >> 4 << j;
                }
                out[16 + i] = high;
            }
        }
        const Out qs = out + (five ? 48 : 16);
        for (int pair = 0; pair < 4; ++pair) {
            for (int i = 0; i < 32; ++i) {
                const auto q = l + 64 * pair + i;
                qs[32 * pair + i] = (q[0] & 15) | (q[32] & 15) << 4;
            }
        }
    }

    APEX_HOST_DEVICE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const int j = first / 32;
        const float scale = half_at(block) * to_float(six_bit_scale(block + 4, j));
        const float min = half_at(block + 2) * to_float(six_bit_min(block + 4, j));
        const uint8_t * qs = block + bytes - 128 + first / 64 * 32 + first % 32;
        const uint8_t * qh = block + 16 + first % 32;
        for (int i = 0; i < 8; ++i) {
            int32_t level = qs[i] >> (j % 2 * 4) & 15;
            if constexpr (five) {
                level |= (qh[i] >> j & 1) << 4;
            }
            out[i] = scale * to_float(level) - min;
        }
    }
};

}  // namespace
}  // namespace apex
