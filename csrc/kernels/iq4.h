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

#include "kernels/batch.h"
#include "kernels/search.h"
#include "kernels/tables.h"

namespace apex {
namespace {

struct Iq4Levels {
    alignas(64) float value[16];
    alignas(64) float midpoint[16];  // midpoint[k]: the lowest that goes to level k; [0] is unused

    Iq4Levels() {
        for (int k = 0; k < 16; ++k) {
            value[k] = static_cast<float>(kvalues_iq4nl[k]);
            midpoint[k] =
                k == 0 ? 0.f : 0.5f * static_cast<float>(kvalues_iq4nl[k - 1] + kvalues_iq4nl[k]);
        }
    }

    template <typename L>
    typename L::I nearest(typename L::F x) const {
        using I = typename L::I;
        I index{};
        for (int bit = 8; bit > 0; bit /= 2) {
            const I tried = index + bit;
            index = L::select(x < lookup16(midpoint, tried), index, tried);
        }
        return index;
    }
};

// The first half of quantize_row_iq4_nl_impl: the scale of 32 weights.
template <typename L>
inline typename L::F search_iq4(const Iq4Levels & levels, const typename L::F * x,
                                const typename L::F * weight) {
    using F = typename L::F;
    F amax;
    const F max = extreme<L>(x, 32, &amax);
    F sum_qx, sum_q2;
    const auto accumulate = [&](F inverse) {
        sum_qx = sum_q2 = L::all(0.f);
        for (int i = 0; i < 32; ++i) {
            const F q = lookup16(levels.value, levels.nearest<L>(inverse * x[i]));
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
struct Iq4 {
    static constexpr bool super = count == 256;
    static constexpr int weights = count;
    static constexpr int bytes = super ? 136 : 18;
    using halves = Halves<0>;

    template <typename L, bool weighted>
    static void quantize(const Blocks<L, count> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        static const Iq4Levels levels;
        constexpr int parts = count / 32;
        F sigma2 = L::all(0.f);
        for (int i = 0; weighted && i < count; ++i) {
            sigma2 += blocks.x[i] * blocks.x[i];
        }
        sigma2 *= 2.f / static_cast<float>(count);
        F scales[parts];
        for (int j = 0; j < parts; ++j) {
            const F * x = blocks.x + 32 * j;
            F weight[32];
            if constexpr (weighted) {
                blocks.template load_importance<32>(32 * j, weight);
                for (int i = 0; i < 32; ++i) {
                    weight[i] *= square_root(sigma2 + x[i] * x[i]);
                }
            } else {
                for (int i = 0; i < 32; ++i) {
                    weight[i] = x[i] * x[i];
                }
            }
            scales[j] = search_iq4<L>(levels, x, weight);
        }
        I * qs = out + bytes - count / 2;
        if constexpr (super) {
            F amax;
            const F d = -extreme<L>(scales, parts, &amax) / 32.f;
            const F inverse = L::select(d != 0.f, 1.f / d, L::all(0.f));
            put_half<L>(L::to_half(d), out);
            I integers[parts];
            for (int j = 0; j < parts; ++j) {
                const F integer = L::nearest(inverse * scales[j], -32.f, 31.f);
                integers[j] = to_int(integer) + 32;
                const F scale = d * integer;
                pack<L>(levels, blocks.x + 32 * j, scale, qs + 16 * j);
            }
            out[2] = integers[0] >> 4 | integers[1] >> 4 << 2 | integers[2] >> 4 << 4 |
                     integers[3] >> 4 << 6;
            out[3] = integers[4] >> 4 | integers[5] >> 4 << 2 | integers[6] >> 4 << 4 |
                     integers[7] >> 4 << 6;
            for (int j = 0; j < 4; ++j) {
                out[4 + j] = (integers[2 * j] & 15) | (integers[2 * j + 1] & 15) << 4;
            }
        } else {
            put_half<L>(L::to_half(scales[0]), out);
            pack<L>(levels, blocks.x, scales[0], qs);
        }
    }

  private:
    template <typename L>
    static void pack(const Iq4Levels & levels, const typename L::F * x, typename L::F scale,
                     typename L::I * qs) {
        const auto inverse = L::select(scale != 0.f, 1.f / scale, L::all(0.f));
        for (int i = 0; i < 16; ++i) {
            qs[i] = levels.nearest<L>(inverse * x[i]) | levels.nearest<L>(inverse * x[i + 16]) << 4;
        }
    }
};

}  // namespace
}  // namespace apex
