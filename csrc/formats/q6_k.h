// Q6_K, 210 bytes: ql 128, qh 64, scales 16 (signed), d (binary16).
// Equal to ggml's quantize_row_q6_K_ref, with importance quantize_row_q6_K_impl, and
// dequantize_row_q6_K.
//
// This format is annotated as the example of one: what a step gets and what it has to leave is said
// here once for all of them. A weight is d * scale of its part * (level - 32).
#pragma once

#include "formats/super_blocks.h"
#include "searches/scales.h"

namespace apex {
namespace {

struct Q6K : SuperFormat {             // 256 weights; otherwise FormatDefaults
    static constexpr int bytes = 210;  // of a block
    static constexpr int parts = 16;   // of 16 weights, each with a scale of its own
    using halves = Halves<208>;        // where d is: an infinite one is refused

    // What a search leaves for each part, and what combine leaves for all of them. L is the lanes:
    // L::F, L::I and L::M are W floats, integers and conditions side by side, one per block.
    template <typename L>
    using Found = Symmetric<L>;
    template <typename L>
    struct Scales {
        typename L::F scale[16];
        typename L::M is_empty;  // the whole block becomes zero bytes
    };

    // The scale of the part `x`. `weight` holds the importance of its columns if `weighted`,
    // otherwise room: a search may turn it into the weights of the errors. The tables, sigma2 and
    // the place for levels are of no use here.
    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        typename L::F * weight, typename L::F, Found<L> * found,
                                        typename L::I *) {
        *found = search_symmetric<L, 16, weighted>(x, weight, 32);
        return false;
    }

    // All scales as integers under d, which is rounded to binary16 first. Bytes are integers of
    // 0 .. 255. What the reference decides by a branch is a `select`.
    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const Found<L> * found,
                                         Scales<L> * result, Out out) {
        using F = typename L::F;
        using I = typename L::I;
        F scales[16];
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            scales[j] = found[j].scale;
        }
        F amax;
        const F max = extreme<L, 16>(scales, &amax);
        const auto is_empty = amax < kAllZero;
        const F inverse = -128.f / max;
        const I half = L::select(is_empty, I{}, L::to_half(1.f / inverse));
        const F d = L::from_half(half);
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            const I integer = L::min(L::all(127), to_int(L::nearest(inverse * scales[j])));
            out[192 + j] = L::select(is_empty, I{}, integer & 255);
            result->scale[j] = d * to_float(L::signed_byte(integer));
        }
        result->is_empty = is_empty;
        put_half(half, out + 208);
        return false;
    }

    // The levels of part j, 0 .. 63, under its scale as it was written; where that became zero,
    // those that the search had found.
    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> & scales, int j,
                                       typename L::I * l) {
        const auto scale = scales.scale[j];
        const auto is_zero = scale == 0.f;
        const bool some_zero = any(is_zero);
        APEX_UNROLL
        for (int i = 0; i < 16; ++i) {
            auto value = L::nearest(x[i] / scale, -32.f, 31.f) + 32.f;
            if (some_zero) {
                value = L::select(is_zero, found.stored(x[i], 32), value);
                value = L::select(scales.is_empty, L::all(0.f), value);
            }
            l[i] = to_int(value);
        }
    }

    // All levels of the block as bytes: four lower bits in ql, two upper ones in qh.
    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 32; ++i) {
                const auto q = l + 128 * half + i;
                const Out low = out + 64 * half + i;
                low[0] = (q[0] & 15) | (q[64] & 15) << 4;
                low[32] = (q[32] & 15) | (q[96] & 15) << 4;
                out[128 + 32 * half + i] =
                    q[0] >> 4 | q[32] >> 4 << 2 | q[64] >> 4 << 4 | q[96] >> 4 << 6;
            }
        }
    }

    // Back: eight weights, which all lie in one part.
    APEX_HOST_DEVICE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const float scale =
            half_at(block + 208) * to_float(Lanes<1>::signed_byte(block[192 + first / 16]));
        const uint8_t * ql = block + first / 128 * 64 + first % 64;
        const int shift = first / 64 % 2 * 4;
        for (int i = 0; i < 8; ++i) {
            const int32_t low = ql[i] >> shift & 15;
            out[i] = scale * to_float((low | two_bits(block + 128, first, i) << 4) - 32);
        }
    }
};

}  // namespace
}  // namespace apex
