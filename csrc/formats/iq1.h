// IQ1_S and IQ1_M: three levels on a codebook of 2048 points, shifted up or down by 1/8. A lane
// owns a super-block; only the choice among the neighbours of a point runs lane by lane, with the
// neighbours side by side (searches/nearest.h). Byte layouts, d being binary16:
//   IQ1_S 50   d, qs 32, qh 8 x 16 bits (4 x 3 high bits, 3-bit scale, shift)
//   IQ1_M 56   qs 32, qh 16 (2 x (3 high bits, shift)), scales 8 (16 x 3 bits, and d in the rest)
// Equal to ggml's quantize_row_iq1_s_impl and quantize_row_iq1_m_impl, and to dequantize_row_iq1_s
// and dequantize_row_iq1_m.
#pragma once

#include "formats/super_blocks.h"
#include "searches/splits.h"

namespace apex {
namespace {

// The 3-bit scales: ggml's nearest_int(0.5f * (scale / d - 1)) with d the largest over 15.
template <typename L, int count>
APEX_HOST_DEVICE inline typename L::F round_split_scales(const typename L::F * scales,
                                                         typename L::F * integers,
                                                         typename L::M * is_empty) {
    using F = typename L::F;
    F max = L::all(0.f);
    APEX_UNROLL
    for (int j = 0; j < count; ++j) {
        max = L::max(max, scales[j]);
    }
    *is_empty = max == 0.f;
    const F d = max / 15.f;
    const F inverse = 1.f / d;
    APEX_UNROLL
    for (int j = 0; j < count; ++j) {
        integers[j] = L::nearest(0.5f * (inverse * scales[j] - 1.f), 0.f, 7.f);
    }
    return d;
}

// A point of IQ1's codebook: eight levels of -1, 0 and 1, all of them moved by an eighth. `code` is
// the upper three bits of its index, and a fourth that says down.
APEX_READS_TABLE inline void moved_point(int32_t low, int32_t code, float scale, float * out) {
    const float move = code & 8 ? -IQ1S_DELTA : IQ1S_DELTA;
    const int32_t index = low | (code & 7) << 8;
#if defined(__CUDACC__)
    const uint32_t point = iq1s_grid_gpu[index];
#else
    const uint64_t point = iq1s_grid[index];
#endif
    for (int i = 0; i < 8; ++i) {
#if defined(__CUDACC__)
        // One more than the level in every half of a byte: four lower halves, then the upper ones.
        const int32_t level = static_cast<int32_t>(point >> (i % 4 * 8 + i / 4 * 4) & 15) - 1;
#else
        const auto level = static_cast<int8_t>(point >> 8 * i & 255);
#endif
        out[i] = scale * (to_float(level) + move);
    }
}

// What the two have in common.
template <int bytes_, int parts_, bool halves_>
struct SplitFormat : SuperFormat {
    static constexpr int bytes = bytes_;
    static constexpr int parts = parts_;
    static constexpr int part = kSuper / parts;
    static constexpr int groups = part / 8;
    static constexpr bool by_halves = halves_;
    static constexpr float smallest = halves_ ? 1e-7f : 1e-12f;
    static constexpr bool has_levels = false;

    struct Tables : Grid {
        static constexpr int longest = 205;  // list of neighbours
        static const Grid & get() { return grid_iq1(); }
    };
    template <typename L>
    using Found = SplitPart<L, groups>;

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        return 2.f * sum_of_squares<L, kSuper>(x) / 256.f;
    }

    // From importance to weights.
    template <typename L, bool weighted, int count>
    APEX_HOST_DEVICE static void weigh(const typename L::F * x, typename L::F sigma2,
                                       typename L::F * weight) {
        if constexpr (weighted) {
            importance_weights<L, count>(x, sigma2, weight);
        } else {
            APEX_UNROLL
            for (int i = 0; i < count; ++i) {
                weight[i] = x[i] * x[i];
            }
        }
    }

    template <typename L, bool weighted>
    static bool search(const Grid & grid, const typename L::F * x, typename L::F * weight,
                       typename L::F sigma2, Found<L> * found, typename L::I *) {
        weigh<L, weighted, part>(x, sigma2, weight);
        return search_split<L, part, by_halves>(grid, x, weight, smallest, found);
    }
};

struct Iq1S : SplitFormat<50, 8, false> {
    using halves = Halves<0>;

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const Found<L> * found, Scales<L> *,
                                         Out out) {
        using F = typename L::F;
        using I = typename L::I;
        F scales[8], integers[8];
        for (int j = 0; j < 8; ++j) {
            scales[j] = found[j].scale;
        }
        typename L::M is_empty;
        const F d = round_split_scales<L, 8>(scales, integers, &is_empty);
        put_half(L::select(is_empty, I{}, L::to_half(d * 1.125f)), out);
        for (int j = 0; j < 8; ++j) {
            I high{};
            for (int k = 0; k < 4; ++k) {
                const I index = Codebook<L, 8, 2>::index(grid, found[j].code[k]);
                out[2 + 4 * j + k] = index & 255;
                high |= index >> 8 << (3 * k);
            }
            const I scale = to_int(integers[j]) | found[j].shift << 3;
            put_half(high | L::select(is_empty, I{}, scale) << 12, out + 34 + 2 * j);
        }
        return false;
    }

    APEX_READS_TABLE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const int k = first / 8;
        const int32_t qh = pair_at(block + 34 + first / 32 * 2);
        const float scale = half_at(block) * to_float(2 * (qh >> 12 & 7) + 1);
        moved_point(block[2 + k], (qh >> (k % 4 * 3) & 7) | (qh >> 15) << 3, scale, out);
    }
};

struct Iq1M : SplitFormat<56, 16, true> {
    using halves = Halves<>;  // its only one is in pieces
    static constexpr bool keeps_weights = true;

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const typename L::F * x,
                                         const typename L::F * weight, const Found<L> * found,
                                         Scales<L> *, Out out) {
        using F = typename L::F;
        using I = typename L::I;
        F scales[16], integers[16];
        for (int j = 0; j < 16; ++j) {
            scales[j] = found[j].scale;
        }
        typename L::M is_empty;
        F d = round_split_scales<L, 16>(scales, integers, &is_empty);

        // d again, from all weights and the rounded scales.
        F sum_qx = L::all(0.f);
        F sum_q2 = L::all(0.f);
        for (int j = 0; j < 32; ++j) {
            const auto down = is_down<L, true>(found[j / 2].shift, j % 2);
            const F factor = 2.f * integers[j / 2] + 1.f;
            APEX_UNROLL
            for (int i = 0; i < 8; ++i) {
                const I l = Codebook<L, 8, 2>::level(found[j / 2].code[j % 2], i);
                const F q = value_of<L>(down, l) * factor;
                const F wq = weight[8 * j + i] * q;
                sum_qx += wq * x[8 * j + i];
                sum_q2 += wq * q;
            }
        }
        d = L::select(sum_q2 > 0.f, sum_qx / sum_q2, d);
        const I half = L::to_half(d * 1.1125f);
        for (int j = 0; j < 16; ++j) {
            const I shift = found[j].shift;
            I high{};
            for (int k = 0; k < 2; ++k) {
                const I index = Codebook<L, 8, 2>::index(grid, found[j].code[k]);
                out[2 * j + k] = index & 255;
                high |= index >> 8 << (4 * k);
            }
            const I signs = (shift >> 1) << 3 | (shift & 1) << 7;
            out[32 + j] = high | L::select(is_empty, I{}, signs);
        }
        for (int j = 0; j < 4; ++j) {
            I word = (half >> (4 * j) & 15) << 12;
            for (int k = 0; k < 4; ++k) {
                word |= to_int(integers[4 * j + k]) << (3 * k);
            }
            put_half(L::select(is_empty, I{}, word), out + 48 + 2 * j);
        }
        return any(((half & 0x7c00) == 0x7c00) & !is_empty);
    }

    APEX_READS_TABLE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const int j = first / 16;
        const int k = first / 8;
        // Above four scales of three bits each, four pairs of bytes hold the pieces of d.
        const uint8_t * scales = block + 48;
        const int32_t half =
            scales[1] >> 4 | (scales[3] & 0xf0) | (scales[5] & 0xf0) << 4 | (scales[7] & 0xf0) << 8;
        const int32_t scale3 = pair_at(scales + j / 4 * 2) >> (j % 4 * 3) & 7;
        const float scale = Lanes<1>::from_half(half) * to_float(2 * scale3 + 1);
        moved_point(block[k], block[32 + j] >> (k % 2 * 4) & 15, scale, out);
    }
};

}  // namespace
}  // namespace apex
