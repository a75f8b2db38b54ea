// Q8_0, 34 bytes: d (binary16), qs 32 (signed).
// Equal to ggml's quantize_row_q8_0_ref and dequantize_row_q8_0.
#pragma once

#include "formats/small_blocks.h"

namespace apex {
namespace {

struct Q80 : SmallFormat {
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
    APEX_HOST_DEVICE static bool combine(const NoTables &, const Found<L> * found, Scales<L> *,
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

    APEX_HOST_DEVICE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const float d = half_at(block);
        for (int i = 0; i < 8; ++i) {
            out[i] = to_float(Lanes<1>::signed_byte(block[2 + first + i])) * d;
        }
    }
};

}  // namespace
}  // namespace apex
