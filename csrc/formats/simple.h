// Blocks of 32 weights: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, MXFP4. A lane owns a block.
//
// Byte layouts, d and m being binary16 and e an exponent:
//   Q8_0 34   d, qs 32 (signed)              MXFP4 17   e, qs 16
//   Q4_0 18   d, qs 16                       Q4_1  20   d, m, qs 16
//   Q5_0 22   d, qh 4, qs 16                 Q5_1  24   d, m, qh 4, qs 16
// Equal to ggml's quantize_row_q8_0_ref, quantize_row_q4_0_ref and, with importance,
// quantize_row_q4_0_impl, and so on. The sum of squares in the latter runs over the whole row.
#pragma once

#include "formats/format.h"
#include "searches/scales.h"
#include "tables/exponents.h"

namespace apex {
namespace {

constexpr int kBlock = 32;

struct SimpleFormat : FormatDefaults {
    static constexpr int weights = kBlock;
    static constexpr int parts = 1;
};

// Byte i holds the elements i and i + 16; their fifth bits go into the four bytes of `high`.
// Without these the reference does not cut the elements to four bits, of which some have more where
// a denormal scale makes them overflow.
template <bool five, typename Levels, typename Out>
APEX_HOST_DEVICE inline void pack_halves(Levels l, Out low, [[maybe_unused]] Out high) {
    for (int i = 0; i < 16; ++i) {
        low[i] = five ? (l[i] & 15) | (l[i + 16] & 15) << 4 : (l[i] | (l[i + 16] & 15) << 4) & 255;
    }
    if constexpr (five) {
        for (int byte = 0; byte < 4; ++byte) {
            auto bits = l[8 * byte] >> 4 & 1;
            for (int bit = 1; bit < 8; ++bit) {
                bits |= (l[8 * byte + bit] >> 4 & 1) << bit;
            }
            high[byte] = bits;
        }
    }
}

// importance * sqrt(mean square of the row + x^2)
template <typename L>
APEX_HOST_DEVICE inline void row_weights(const typename L::F * x, typename L::F sigma2,
                                         typename L::F * weight) {
    APEX_UNROLL
    for (int i = 0; i < kBlock; ++i) {
        weight[i] *= square_root(sigma2 + x[i] * x[i]);
    }
}

// 1 / d, or 0 where d is 0.
template <typename L>
APEX_HOST_DEVICE inline typename L::F inverse_of(typename L::F d) {
    return L::select(d != 0.f, 1.f / d, L::all(0.f));
}

struct Q80 : SimpleFormat {
    static constexpr int bytes = 34;
    using halves = Halves<0>;

    template <typename L>
    struct Found {
        typename L::F d;
    };

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x, typename L::F *,
                                        typename L::F, Found<L> * found, typename L::I *) {
        auto amax = L::all(0.f);
        APEX_UNROLL
        for (int i = 0; i < kBlock; ++i) {
            amax = L::max(amax, L::abs(x[i]));
        }
        found->d = amax / 127.f;
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found, Scales<L> *,
                                         Out out) {
        put_half(L::to_half(found->d), out);
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> &, int,
                                       typename L::I * l) {
        const auto inverse = inverse_of<L>(found.d);
        APEX_UNROLL
        for (int i = 0; i < kBlock; ++i) {
            // roundf: away from zero at one half. Exact, for what is cut off is; an infinite v, of
            // a denormal d, is left as the conversion makes it.
            const auto v = x[i] * inverse;
            const auto whole = to_int(v);
            const auto rest = L::abs(v - to_float(whole));
            const auto one = (L::bits(v) >> 31) | 1;
            const auto away = (rest >= 0.5f) & (rest < 1.f);
            l[i] = (whole + L::select(away, one, typename L::I{})) & 255;
        }
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        for (int i = 0; i < kBlock; ++i) {
            out[2 + i] = l[i];
        }
    }
};

// Q4_0 and Q5_0: `limit` is 8 or 16, the levels -limit .. limit - 1.
template <int limit>
struct Centered : SimpleFormat {
    static constexpr bool five = limit == 16;
    static constexpr int bytes = five ? 22 : 18;
    static constexpr bool by_row = true;
    using halves = Halves<0>;

    template <typename L>
    using Found = Symmetric<L>;

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        typename L::F * weight, typename L::F sigma2,
                                        Found<L> * found, typename L::I *) {
        if constexpr (weighted) {
            row_weights<L>(x, sigma2, weight);
            *found = search_symmetric<L, kBlock, true>(x, weight, limit);
        } else {
            typename L::F amax;
            const auto d = extreme<L, kBlock>(x, &amax) / -static_cast<float>(limit);
            *found = {d, inverse_of<L>(d), typename L::M{}};
        }
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found, Scales<L> *,
                                         Out out) {
        put_half(L::to_half(found->scale), out);
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> &, int,
                                       typename L::I * l) {
        APEX_UNROLL
        for (int i = 0; i < kBlock; ++i) {
            if constexpr (weighted) {
                l[i] = to_int(found.stored(x[i], limit));
            } else {
                // A signed byte first, as in the reference.
                const auto byte = L::signed_byte(
                    to_int(x[i] * found.inverse + (static_cast<float>(limit) + 0.5f)));
                l[i] = L::min(L::all(2 * limit - 1), byte);
            }
        }
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        pack_halves<five>(l, out + (bytes - 16), out + 2);
    }
};

// Q4_1 and Q5_1: the levels 0 .. limit above a minimum.
template <int limit>
struct Shifted : SimpleFormat {
    static constexpr bool five = limit == 31;
    static constexpr int bytes = five ? 24 : 20;
    static constexpr bool by_row = true;
    using halves = Halves<0, 2>;

    template <typename L>
    using Found = Affine<L>;

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        typename L::F * weight, typename L::F sigma2,
                                        Found<L> * found, typename L::I *) {
        if constexpr (weighted) {
            row_weights<L>(x, sigma2, weight);
            *found = search_affine<L, kBlock>(x, weight, limit, {-0.9f, 0.05f, 36, false});
        } else {
            auto min = x[0];
            auto max = x[0];
            APEX_UNROLL
            for (int i = 1; i < kBlock; ++i) {
                min = L::min(x[i], min);
                max = L::max(x[i], max);
            }
            const auto d = (max - min) / static_cast<float>(limit);
            *found = {d, -min, inverse_of<L>(d), min};
        }
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found, Scales<L> *,
                                         Out out) {
        put_half(L::to_half(found->scale), out);
        put_half(L::to_half(-found->min), out + 2);
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> &, int,
                                       typename L::I * l) {
        APEX_UNROLL
        for (int i = 0; i < kBlock; ++i) {
            if constexpr (weighted) {
                l[i] = to_int(found.stored(x[i], limit));
            } else {
                const auto level = to_int((x[i] - found.base) * found.inverse + 0.5f);
                l[i] = five ? level : L::min(L::all(limit), L::signed_byte(level));
            }
        }
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        pack_halves<five>(l, out + (bytes - 16), out + 4);
    }
};

struct Mxfp4 : SimpleFormat {
    static constexpr int bytes = 17;
    using halves = Halves<>;
    using Tables = Exponents;

    template <typename L>
    struct Found {
        typename L::I exponent;
    };

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const Exponents & tables, const typename L::F * x,
                                        typename L::F *, typename L::F, Found<L> * found,
                                        typename L::I *) {
        auto amax = L::all(0.f);
        APEX_UNROLL
        for (int i = 0; i < kBlock; ++i) {
            amax = L::max(L::abs(x[i]), amax);
        }
        float values[L::width];
        int32_t exponents[L::width];
        std::memcpy(values, &amax, sizeof(values));
        for (int lane = 0; lane < L::width; ++lane) {
            exponents[lane] =
                values[lane] > 0.f ? (exponent_of(tables, values[lane]) - 2 + 127) & 255 : 0;
        }
        std::memcpy(&found->exponent, exponents, sizeof(exponents));
        return any(found->exponent == 255);  // not a number
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Exponents &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found, Scales<L> *,
                                         Out out) {
        out[0] = found->exponent;
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const Exponents &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> &, int,
                                       typename L::I * l) {
        using F = typename L::F;
        using I = typename L::I;
        const I e = found.exponent;
        const I bits = L::select(e < 2, L::select(e == 0, L::all(0x00200000), L::all(0x00400000)),
                                 ((e - 1) & 255) << 23);
        const F d = L::from_bits(bits);  // half of 2^(e - 127): the values are doubled
        F levels[16];
        APEX_UNROLL
        for (int k = 0; k < 16; ++k) {
            levels[k] = doubled_value(k) * d;
        }
        APEX_UNROLL
        for (int i = 0; i < kBlock; ++i) {
            I index{};
            F best = L::abs(levels[0] - x[i]);
            APEX_UNROLL
            for (int k = 1; k < 16; ++k) {
                const F error = L::abs(levels[k] - x[i]);
                const auto better = error < best;
                index = L::select(better, L::all(k), index);
                best = L::select(better, error, best);
            }
            l[i] = index;
        }
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        pack_halves<false>(l, out + 1, out);
    }

  private:
    // Twice the value of a four-bit float: a sign, two bits of exponent, one of mantissa.
    APEX_HOST_DEVICE static constexpr float doubled_value(int k) {
        const int exponent = k >> 1 & 3;
        const int magnitude = exponent == 0 ? k & 1 : (2 | (k & 1)) << (exponent - 1);
        return static_cast<float>(k < 8 ? magnitude : -magnitude);
    }
};

}  // namespace
}  // namespace apex
