// MXFP4, 17 bytes: an exponent, qs 16 (four-bit floats).
// Equal to ggml's quantize_row_mxfp4_ref and dequantize_row_mxfp4.
#pragma once

#include "formats/small_blocks.h"
#include "tables/exponents.h"
#include "tables/upstream.h"

namespace apex {
namespace {

struct Mxfp4 : SmallFormat {
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
    APEX_HOST_DEVICE static bool combine(const Exponents &, const Found<L> * found, Scales<L> *,
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

    APEX_READS_TABLE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        // Half of 2^(e - 127), for the values are doubled; denormal where e is 0 or 1. No NaN.
        const int32_t e = block[0];
        const float d = Lanes<1>::from_bits(e < 2 ? 0x00200000 << e : (e - 1) << 23);
        for (int i = 0; i < 8; ++i) {
            out[i] = to_float(kvalues_mxfp4[small_level<false>(block + 1, first, i)]) * d;
        }
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
