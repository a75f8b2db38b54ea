// Blocks of 32 weights: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, MXFP4. A lane owns a block.
//
// Byte layouts, d and m being binary16 and e an exponent:
//   Q8_0 34   d, qs 32 (signed)              MXFP4 17   e, qs 16
//   Q4_0 18   d, qs 16                       Q4_1  20   d, m, qs 16
//   Q5_0 22   d, qh 4, qs 16                 Q5_1  24   d, m, qh 4, qs 16
// Equal to ggml's quantize_row_q8_0_ref, quantize_row_q4_0_ref and, with importance,
// quantize_row_q4_0_impl, and so on. The sum of squares in the latter runs over the whole row.
#pragma once

#include "kernels/batch.h"
#include "kernels/search.h"
#include "kernels/tables.h"

namespace apex {
namespace {

constexpr int kBlock = 32;

template <typename L>
using Small = Blocks<L, kBlock>;

// Byte i holds the elements i and i + 16; their fifth bits go into the four bytes of `high`.
// Without these the reference does not cut the elements to four bits, of which some have more where
// a denormal scale makes them overflow.
template <typename L>
inline void pack_halves(const typename L::I * l, typename L::I * low, typename L::I * high) {
    using I = typename L::I;
    for (int i = 0; i < 16; ++i) {
        low[i] = high == nullptr ? (l[i] | (l[i + 16] & 15) << 4) & 255
                                 : (l[i] & 15) | (l[i + 16] & 15) << 4;
    }
    for (int byte = 0; high != nullptr && byte < 4; ++byte) {
        I bits{};
        for (int bit = 0; bit < 8; ++bit) {
            bits |= (l[8 * byte + bit] >> 4 & 1) << bit;
        }
        high[byte] = bits;
    }
}

// importance * sqrt(mean square of the row + x^2)
template <typename L>
inline void row_weights(const Small<L> & blocks, typename L::F * weight) {
    const auto sigma2 = blocks.row_squares() / static_cast<float>(blocks.columns());
    blocks.template load_importance<kBlock>(0, weight);
    for (int i = 0; i < kBlock; ++i) {
        weight[i] *= square_root(sigma2 + blocks.x[i] * blocks.x[i]);
    }
}

struct Q80 {
    static constexpr int weights = kBlock;
    static constexpr int bytes = 34;
    using halves = Halves<0>;

    template <typename L, bool weighted>
    static void quantize(const Small<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        F amax = L::all(0.f);
        for (int i = 0; i < kBlock; ++i) {
            amax = L::max(amax, L::abs(blocks.x[i]));
        }
        const F d = amax / 127.f;
        const F inverse = L::select(d != 0.f, 1.f / d, L::all(0.f));
        put_half<L>(L::to_half(d), out);
        for (int i = 0; i < kBlock; ++i) {
            // roundf: away from zero at one half. Exact, for what is cut off is; an infinite v, of
            // a denormal d, is left as the conversion makes it.
            const F v = blocks.x[i] * inverse;
            const auto whole = to_int(v);
            const F rest = L::abs(v - to_float(whole));
            const auto one = (L::bits(v) >> 31) | 1;
            const auto away = (rest >= 0.5f) & (rest < 1.f);
            out[2 + i] = (whole + L::select(away, one, typename L::I{})) & 255;
        }
    }
};

// Q4_0 and Q5_0: `limit` is 8 or 16, the levels -limit .. limit - 1.
template <int limit>
struct Centered {
    static constexpr bool five = limit == 16;
    static constexpr int weights = kBlock;
    static constexpr int bytes = five ? 22 : 18;
    using halves = Halves<0>;

    template <typename L, bool weighted>
    static void quantize(const Small<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        constexpr auto half_range = static_cast<float>(limit);
        I l[kBlock];
        F d;
        if constexpr (weighted) {
            F weight[kBlock];
            row_weights<L>(blocks, weight);
            const auto found = search_symmetric<L, kBlock>(blocks.x, weight, limit);
            d = found.scale;
            for (int i = 0; i < kBlock; ++i) {
                l[i] = to_int(found.stored(blocks.x[i], limit));
            }
        } else {
            F amax;
            d = extreme<L>(blocks.x, kBlock, &amax) / -half_range;
            const F inverse = L::select(d != 0.f, 1.f / d, L::all(0.f));
            for (int i = 0; i < kBlock; ++i) {
                // A signed byte first, as in the reference.
                const I byte = L::signed_byte(to_int(blocks.x[i] * inverse + (half_range + 0.5f)));
                l[i] = L::min(L::all(2 * limit - 1), byte);
            }
        }
        put_half<L>(L::to_half(d), out);
        pack_halves<L>(l, out + bytes - 16, five ? out + 2 : nullptr);
    }
};

// Q4_1 and Q5_1: the levels 0 .. limit above a minimum.
template <int limit>
struct Shifted {
    static constexpr bool five = limit == 31;
    static constexpr int weights = kBlock;
    static constexpr int bytes = five ? 24 : 20;
    using halves = Halves<0, 2>;

    template <typename L, bool weighted>
    static void quantize(const Small<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        I l[kBlock];
        F d, min;
        if constexpr (weighted) {
            F weight[kBlock];
            row_weights<L>(blocks, weight);
            const auto found =
                search_affine<L, kBlock>(blocks.x, weight, limit, {-0.9f, 0.05f, 36, false});
            d = found.scale;
            min = -found.min;
            for (int i = 0; i < kBlock; ++i) {
                l[i] = to_int(found.stored(blocks.x[i], limit));
            }
        } else {
            min = blocks.x[0];
            F max = blocks.x[0];
            for (int i = 1; i < kBlock; ++i) {
                min = L::min(blocks.x[i], min);
                max = L::max(blocks.x[i], max);
            }
            d = (max - min) / static_cast<float>(limit);
            const F inverse = L::select(d != 0.f, 1.f / d, L::all(0.f));
            for (int i = 0; i < kBlock; ++i) {
                const I level = to_int((blocks.x[i] - min) * inverse + 0.5f);
                l[i] = five ? level : L::min(L::all(limit), L::signed_byte(level));
            }
        }
        put_half<L>(L::to_half(d), out);
        put_half<L>(L::to_half(min), out + 2);
        pack_halves<L>(l, out + bytes - 16, five ? out + 4 : nullptr);
    }
};

struct Mxfp4 {
    static constexpr int weights = kBlock;
    static constexpr int bytes = 17;
    using halves = Halves<>;

    template <typename L, bool weighted>
    static void quantize(const Small<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        F amax = L::all(0.f);
        for (int i = 0; i < kBlock; ++i) {
            amax = L::max(L::abs(blocks.x[i]), amax);
        }
        const I e = exponent<L>(amax);
        const I bits = L::select(e < 2, L::select(e == 0, L::all(0x00200000), L::all(0x00400000)),
                                 ((e - 1) & 255) << 23);
        const F d = L::from_bits(bits);  // half of 2^(e - 127): the values are doubled
        F levels[16];
        for (int k = 0; k < 16; ++k) {
            levels[k] = static_cast<float>(kvalues_mxfp4[k]) * d;
        }
        I l[kBlock];
        for (int i = 0; i < kBlock; ++i) {
            I index{};
            F best = L::abs(levels[0] - blocks.x[i]);
            for (int k = 1; k < 16; ++k) {
                const F error = L::abs(levels[k] - blocks.x[i]);
                const auto better = error < best;
                index = L::select(better, L::all(k), index);
                best = L::select(better, error, best);
            }
            l[i] = index;
        }
        blocks.report(any(e == 255));  // not a number
        out[0] = e;
        pack_halves<L>(l, out + 1, nullptr);
    }

  private:
    // By the C library's log2f, whose rounding just below a power of two is part of the format.
    template <typename L>
    static typename L::I exponent(typename L::F amax) {
        float values[L::width];
        int32_t result[L::width];
        std::memcpy(values, &amax, sizeof(values));
        for (int lane = 0; lane < L::width; ++lane) {
            const float v = values[lane];
            result[lane] = v > 0.f ? to_int(floorf(log2f(v)) - 2 + 127) & 255 : 0;
        }
        typename L::I lanes;
        std::memcpy(&lanes, result, sizeof(lanes));
        return lanes;
    }
};

}  // namespace
}  // namespace apex
