// Non-linear four-bit types: IQ4_NL (blocks of 32) and IQ4_XS (super-blocks of 256, eight scales).
// A lane owns a block or super-block. Byte layouts, d being binary16:
//   IQ4_NL  18   d, qs 16
//   IQ4_XS 136   d, scales_h 2, scales_l 4 (8 x 6 bits), qs 128
// Equal to ggml's quantize_row_iq4_nl_impl with ntry 7, as quantize_iq4_nl and quantize_iq4_xs call
// it, and to dequantize_row_iq4_nl and dequantize_row_iq4_xs.
#pragma once

#include "formats/small_blocks.h"
#include "searches/levels.h"
#include "tables/upstream.h"

namespace apex {
namespace {

template <int count>
struct Iq4 : FormatDefaults {
    static constexpr bool super = count == 256;
    static constexpr int weights = count;
    static constexpr int bytes = super ? 136 : 18;
    static constexpr int parts = count / 32;
    using halves = Halves<0>;
    using Tables = Iq4Levels;

    template <typename L>
    struct Found {
        typename L::F scale;
    };
    template <typename L>
    struct Scales {
        typename L::F scale[parts];
    };

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        auto sum = L::all(0.f);
        for (int i = 0; weighted && i < count; ++i) {
            sum += x[i] * x[i];
        }
        return sum * (2.f / static_cast<float>(count));
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const Iq4Levels & levels, const typename L::F * x,
                                        typename L::F * weight,
                                        [[maybe_unused]] typename L::F sigma2, Found<L> * found,
                                        typename L::I *) {
        APEX_UNROLL
        for (int i = 0; i < 32; ++i) {
            if constexpr (weighted) {
                weight[i] *= square_root(sigma2 + x[i] * x[i]);
            } else {
                weight[i] = x[i] * x[i];
            }
        }
        found->scale = search_iq4<L>(levels, x, weight);
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Iq4Levels &, const Found<L> * found,
                                         Scales<L> * result, Out out) {
        if constexpr (super) {
            using F = typename L::F;
            F scales[parts], amax;
            APEX_UNROLL
            for (int j = 0; j < parts; ++j) {
                scales[j] = found[j].scale;
            }
            const F d = -extreme<L, parts>(scales, &amax) / 32.f;
            const F inverse = L::select(d != 0.f, 1.f / d, L::all(0.f));
            put_half(L::to_half(d), out);
            typename L::I integers[parts];
            APEX_UNROLL
            for (int j = 0; j < parts; ++j) {
                const F integer = L::nearest(inverse * scales[j], -32.f, 31.f);
                integers[j] = to_int(integer) + 32;
                result->scale[j] = d * integer;
            }
            out[2] = integers[0] >> 4 | integers[1] >> 4 << 2 | integers[2] >> 4 << 4 |
                     integers[3] >> 4 << 6;
            out[3] = integers[4] >> 4 | integers[5] >> 4 << 2 | integers[6] >> 4 << 4 |
                     integers[7] >> 4 << 6;
            APEX_UNROLL
            for (int j = 0; j < 4; ++j) {
                out[4 + j] = (integers[2 * j] & 15) | (integers[2 * j + 1] & 15) << 4;
            }
        } else {
            put_half(L::to_half(found->scale), out);
            result->scale[0] = found->scale;
        }
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const Iq4Levels & levels, const typename L::F * x,
                                       const Found<L> &, const Scales<L> & scales, int j,
                                       typename L::I * l) {
        const auto scale = scales.scale[j];
        const auto inverse = L::select(scale != 0.f, 1.f / scale, L::all(0.f));
        APEX_UNROLL
        for (int i = 0; i < 32; ++i) {
            l[i] = nearest_level<L>(levels, inverse * x[i]);
        }
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        for (int j = 0; j < parts; ++j) {
            for (int i = 0; i < 16; ++i) {
                out[bytes - count / 2 + 16 * j + i] = l[32 * j + i] | l[32 * j + 16 + i] << 4;
            }
        }
    }

    APEX_READS_TABLE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        float scale = half_at(block);
        const int j = first / 32;
        if constexpr (super) {
            const int32_t low = block[4 + j / 2] >> (j % 2 * 4) & 15;
            const int32_t high = pair_at(block + 2) >> (2 * j) & 3;
            scale *= to_float((low | high << 4) - 32);
        }
        const uint8_t * qs = block + bytes - count / 2 + 16 * j;
        for (int i = 0; i < 8; ++i) {
            out[i] = scale * to_float(kvalues_iq4nl[small_level<false>(qs, first % 32, i)]);
        }
    }
};

}  // namespace
}  // namespace apex
