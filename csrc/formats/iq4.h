// Non-linear four-bit types: IQ4_NL (blocks of 32) and IQ4_XS (super-blocks of 256, eight scales).
// A lane owns a block or super-block.
//
// Byte layouts, d being binary16:
//   IQ4_NL  18   d, qs 16
//   IQ4_XS 136   d, scales_h 2, scales_l 4 (8 x 6 bits), qs 128
// Equal to ggml's quantize_row_iq4_nl_impl with ntry 7, as quantize_iq4_nl and quantize_iq4_xs call
// it. Every weight takes the nearest of 16 levels. ggml finds it by halving; because all points of
// equal distance are multiples of one half, and the comparison there is exact, counting the points
// that are not above finds the same (tests/kernels proves it for every float beside such a point).
#pragma once

#include "formats/format.h"
#include "searches/scales.h"
#include "tables/iq4_levels.h"

namespace apex {
namespace {

template <typename L>
APEX_HOST_DEVICE inline typename L::I nearest_level(const Iq4Levels & levels, typename L::F x) {
    using I = typename L::I;
    I index{};
    APEX_UNROLL
    for (int bit = 8; bit > 0; bit /= 2) {
        const I tried = index + bit;
        index = L::select(x < lookup16(levels.midpoint, tried), index, tried);
    }
    return index;
}

// The first half of quantize_row_iq4_nl_impl: the scale of 32 weights.
template <typename L>
APEX_HOST_DEVICE inline typename L::F search_iq4(const Iq4Levels & levels, const typename L::F * x,
                                                 const typename L::F * weight) {
    using F = typename L::F;
    F amax;
    const F max = extreme<L, 32>(x, &amax);
    F sum_qx, sum_q2;
    const auto accumulate = [&](F inverse) {
        sum_qx = sum_q2 = L::all(0.f);
        APEX_UNROLL
        for (int i = 0; i < 32; ++i) {
            const F q = lookup16(levels.value, nearest_level<L>(levels, inverse * x[i]));
            const F wq = weight[i] * q;
            sum_qx += wq * x[i];
            sum_q2 += wq * q;
        }
    };
    accumulate(1.f / (-max / levels.value[0]));
    F d = L::select(sum_q2 > 0.f, sum_qx / sum_q2, L::all(0.f));
    F best = d * sum_qx;
    for (int step = -7; step <= 7; ++step) {
        accumulate((static_cast<float>(step) + levels.value[0]) / max);
        const auto better = (sum_q2 > 0.f) & (sum_qx * sum_qx > best * sum_q2);
        d = L::select(better, sum_qx / sum_q2, d);
        best = L::select(better, d * sum_qx, best);
    }
    return L::select(amax < kAllZero, L::all(0.f), d);
}

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
    APEX_HOST_DEVICE static bool combine(const Iq4Levels &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found,
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
};

}  // namespace
}  // namespace apex
