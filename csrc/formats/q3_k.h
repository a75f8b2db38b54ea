// Q3_K, 110 bytes: hmask 32, qs 64, scales 12 (16 x 6 bits), d (binary16).
// Equal to ggml's quantize_row_q3_K_ref, with importance quantize_row_q3_K_impl, and
// dequantize_row_q3_K.
#pragma once

#include "formats/super_blocks.h"
#include "searches/scales.h"

namespace apex {
namespace {

struct Q3K : SuperFormat {
    static constexpr int bytes = 110;
    static constexpr int parts = 16;
    static constexpr bool leaves_levels = true;
    using halves = Halves<108>;

    template <typename L>
    struct Found {
        typename L::F scale;
        typename L::F sum;  // of the weights
    };
    template <typename L>
    struct Scales {
        typename L::F scale[16];
    };

    // Each step of the descent waits for the one before: a processor has several under way.
    template <typename L, bool weighted>
    APEX_HOST_DEVICE static constexpr int together() {
        return weighted || L::width == 1 ? 1 : 4;
    }

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        return weighted ? 2.f * sum_of_squares<L, kSuper>(x) / 256.f : L::all(0.f);
    }

    // Leaves levels, for scales that become zero.
    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        [[maybe_unused]] typename L::F * weight,
                                        [[maybe_unused]] typename L::F sigma2, Found<L> * found,
                                        typename L::I * l) {
        if constexpr (weighted) {
            found->sum = importance_weights<L, 16>(x, sigma2, weight);
            const auto symmetric = search_symmetric<L, 16, true>(x, weight, 4);
            found->scale = symmetric.scale;
            APEX_UNROLL
            for (int i = 0; i < 16; ++i) {
                l[i] = to_int(symmetric.stored(x[i], 4));
            }
        } else {
            constexpr int count = together<L, weighted>();
            typename L::F kept[16 * count], scales[count];
            search_descent<L, 16, count>(x, 4, kept, scales);
            for (int j = 0; j < count; ++j) {
                found[j] = {scales[j], L::all(0.f)};
            }
            APEX_UNROLL
            for (int i = 0; i < 16 * count; ++i) {
                l[i] = to_int(kept[i]);
            }
        }
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const Found<L> * found,
                                         Scales<L> * result, Out out) {
        using F = typename L::F;
        using I = typename L::I;
        F scales[16], sums[16];
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            scales[j] = found[j].scale;
            sums[j] = found[j].sum;
        }
        I integers[16];
        I half;
        if constexpr (weighted) {
            const auto symmetric = search_symmetric<L, 16, true>(scales, sums, 32);
            APEX_UNROLL
            for (int j = 0; j < 16; ++j) {
                integers[j] = to_int(symmetric.stored(scales[j], 32));
            }
            half = L::to_half(symmetric.scale);
        } else {
            F amax;
            const F max = extreme<L, 16>(scales, &amax);
            const auto is_zero = max == 0.f;
            const F inverse = -32.f / max;
            APEX_UNROLL
            for (int j = 0; j < 16; ++j) {
                // The reference keeps nearest_int in a signed byte before it clamps.
                const I byte = L::signed_byte(to_int(L::nearest(inverse * scales[j])));
                const I clamped = L::max(L::all(-32), L::min(L::all(31), byte)) + 32;
                integers[j] = L::select(is_zero, I{}, clamped);
            }
            half = L::to_half(L::select(is_zero, L::all(0.f), 1.f / inverse));
        }
        const F d = L::from_half(half);
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            result->scale[j] = d * to_float(integers[j] - 32);
        }
        APEX_UNROLL
        for (int j = 0; j < 8; ++j) {
            out[96 + j] = (integers[j] & 15) | (integers[j + 8] & 15) << 4;
        }
        APEX_UNROLL
        for (int j = 0; j < 4; ++j) {
            out[104 + j] = integers[j] >> 4 | integers[j + 4] >> 4 << 2 |
                           integers[j + 8] >> 4 << 4 | integers[j + 12] >> 4 << 6;
        }
        put_half(half, out + 108);
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x, const Found<L> &,
                                       const Scales<L> & scales, int j, typename L::I * l) {
        const auto scale = scales.scale[j];
        const auto is_zero = scale == 0.f;
        APEX_UNROLL
        for (int i = 0; i < 16; ++i) {
            const auto value = to_int(L::nearest(x[i] / scale, -4.f, 3.f)) + 4;
            l[i] = L::select(is_zero, l[i], value);
        }
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        for (int i = 0; i < 32; ++i) {
            auto mask = l[i] >> 2;
            for (int bit = 1; bit < 8; ++bit) {
                mask |= l[32 * bit + i] >> 2 << bit;
            }
            out[i] = mask;
        }
        pack_two_bits(l, out + 32);
    }

    APEX_HOST_DEVICE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const uint8_t * packed = block + 96;
        const int j = first / 16;
        const int32_t low = packed[j % 8] >> (j / 8 * 4) & 15;
        const int32_t high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        const float scale = half_at(block + 108) * to_float((low | high << 4) - 32);
        for (int i = 0; i < 8; ++i) {
            const int32_t top = block[first % 32 + i] >> first / 32 & 1;
            out[i] = scale * to_float((two_bits(block + 32, first, i) | top << 2) - 4);
        }
    }
};

}  // namespace
}  // namespace apex
