// Q2_K, 84 bytes: scales 16 (scale | min << 4), qs 64, d, dmin (binary16).
// Equal to ggml's quantize_row_q2_K_ref, with importance quantize_row_q2_K_impl, and
// dequantize_row_q2_K.
#pragma once

#include "formats/affine_parts.h"

namespace apex {
namespace {

struct Q2K : SuperFormat {
    static constexpr int bytes = 84;
    static constexpr int parts = 16;
    using halves = Halves<80, 82>;

    template <typename L>
    using Found = AffinePart<L>;
    template <typename L>
    using Scales = AffineScales<L, 16>;

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        return weighted ? sum_of_squares<L, kSuper>(x) / 256.f : L::all(0.f);
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        typename L::F * weight, typename L::F sigma2,
                                        Found<L> * found, typename L::I *) {
        if constexpr (weighted) {
            found->sum = importance_weights<L, 16>(x, sigma2, weight);
            found->affine = search_affine<L, 16>(x, weight, 3, {-0.9f, 0.05f, 36, false});
        } else {
            APEX_UNROLL
            for (int i = 0; i < 16; ++i) {
                weight[i] = L::abs(x[i]);
            }
            found->sum = L::all(0.f);
            found->affine = search_affine<L, 16>(x, weight, 3, {-0.5f, 0.1f, 15, true});
        }
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const Found<L> * found,
                                         Scales<L> * scales, Out out) {
        typename L::I ls[16], lm[16];
        const auto rounded = round_affine<L, 16, weighted>(found, 15, ls, lm);
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            const auto byte = (ls[j] | (lm[j] & 15) << 4) & 255;
            out[j] = byte;
            scales->scale[j] = rounded.d * to_float(byte & 15);
            scales->min[j] = rounded.dmin * to_float(byte >> 4);
        }
        put_half(rounded.half_d, out + 80);
        put_half(rounded.half_dmin, out + 82);
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> & scales, int j,
                                       typename L::I * l) {
        requantize<L, 16>(x, scales.scale[j], scales.min[j], found.affine, 3, l);
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        pack_two_bits(l, out + 16);
    }

    APEX_HOST_DEVICE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const int32_t both = block[first / 16];
        const float scale = half_at(block + 80) * to_float(both & 15);
        const float min = half_at(block + 82) * to_float(both >> 4);
        for (int i = 0; i < 8; ++i) {
            out[i] = scale * to_float(two_bits(block + 16, first, i)) - min;
        }
    }
};

}  // namespace
}  // namespace apex
