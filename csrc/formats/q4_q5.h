// Q4_0, Q4_1, Q5_0, Q5_1. Byte layouts, d and m being binary16:
//   Q4_0 18   d, qs 16                       Q4_1  20   d, m, qs 16
//   Q5_0 22   d, qh 4, qs 16                 Q5_1  24   d, m, qh 4, qs 16
// Equal to ggml's quantize_row_q4_0_ref and, with importance, quantize_row_q4_0_impl, and so on.
// The sum of squares in the latter runs over the whole row.
#pragma once

#include "formats/small_blocks.h"
#include "searches/scales.h"

namespace apex {
namespace {

// Q4_0 and Q5_0: `limit` is 8 or 16, the levels -limit .. limit - 1.
template <int limit>
struct Centered : SmallFormat {
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
    APEX_HOST_DEVICE static bool combine(const NoTables &, const Found<L> * found, Scales<L> *,
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

    APEX_HOST_DEVICE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const float d = half_at(block);
        for (int i = 0; i < 8; ++i) {
            out[i] = to_float(small_level<five>(block + bytes - 16, first, i) - limit) * d;
        }
    }
};

// Q4_1 and Q5_1: the levels 0 .. limit above a minimum.
template <int limit>
struct Shifted : SmallFormat {
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
    APEX_HOST_DEVICE static bool combine(const NoTables &, const Found<L> * found, Scales<L> *,
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

    APEX_HOST_DEVICE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const float d = half_at(block);
        const float min = half_at(block + 2);
        for (int i = 0; i < 8; ++i) {
            out[i] = to_float(small_level<five>(block + bytes - 16, first, i)) * d + min;
        }
    }
};

}  // namespace
}  // namespace apex
