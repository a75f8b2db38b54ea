// IQ2_XXS, IQ2_XS, IQ2_S. Byte layouts, d being binary16:
//   IQ2_XXS  66   d, per 32 weights: 4 grid indices, 4 x 7 signs and a 4-bit scale
//   IQ2_XS   74   d, per 8: 9-bit grid index and 7 signs, scales 8
//   IQ2_S    82   d, grid 32, signs 32, grid high bits 8, scales 8
// Equal to ggml's quantize_row_iq2_xxs_impl and dequantize_row_iq2_xxs, and so on.
#pragma once

#include "formats/grid_blocks.h"

namespace apex {
namespace {

// The scale of a part of IQ2: four bits of `scales`, 0 .. 15.
APEX_HOST_DEVICE inline float quarter_scale(float d, int32_t scale) {
    return d * (0.5f + to_float(scale)) * 0.25f;
}

struct Iq2Xxs : GridFormat<Iq2Xxs, 66, 8, 8, 2, false> {
    static constexpr float share = 0.f;
    struct Tables : Grid {
        static constexpr int longest = 150;  // list of neighbours
        static const Grid & get() { return grid_iq2_xxs(); }
    };
    APEX_HOST_DEVICE static constexpr GridRules rules() {
        return {true, 1e-15f, 6, 0.1f, Refine::all, true};
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const Found<L> * found, Scales<L> *,
                                         Out out) {
        typename L::F scales[8];
        typename L::I integers[8];
        for (int j = 0; j < 8; ++j) {
            scales[j] = found[j].scale;
            for (int k = 0; k < 4; ++k) {
                out[2 + 8 * j + k] = Book<L>::index(grid, found[j].code[k]);
            }
        }
        typename L::M is_empty;
        put_half(pack_part_scales<L, 8>(scales, 1.f, integers, &is_empty), out);
        for (int j = 0; j < 8; ++j) {
            put_word(signs_and_scale(found[j], integers[j]), out + 2 + 8 * j + 4);
        }
        clear<L, bytes>(is_empty, out);
        return false;
    }

    APEX_READS_TABLE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const uint8_t * part = block + 2 + first / 32 * 8;
        const int k = first / 8 % 4;
        const uint32_t word = word_at(part + 4);
        const float scale = quarter_scale(half_at(block), static_cast<int32_t>(word >> 28));
        signed_point<8>(iq2xxs_grid[part[k]], seven_signs(word, k), scale, out);
    }
};

// IQ2_XS and IQ2_S; the latter has all signs, a larger grid, and goes without importance too.
template <bool large>
struct Iq2Xs : GridFormat<Iq2Xs<large>, large ? 82 : 74, 16, 8, 2, large> {
    using Base = GridFormat<Iq2Xs<large>, large ? 82 : 74, 16, 8, 2, large>;
    static constexpr float share = 0.25f;
    struct Tables : Grid {
        static constexpr int longest = large ? 70 : 292;  // list of neighbours
        static const Grid & get() { return large ? grid_iq2_s() : grid_iq2_xs(); }
    };
    template <typename L>
    using Found = typename Base::template Found<L>;
    template <typename L>
    using Scales = typename Base::template Scales<L>;

    APEX_HOST_DEVICE static constexpr GridRules rules() {
        return {!large, large ? 1e-8f : 1e-15f, 9, 0.1f, Refine::those_off, false};
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const Found<L> * found, Scales<L> *,
                                         Out out) {
        using I = typename L::I;
        using Book = typename Base::template Book<L>;
        typename L::F scales[16];
        I integers[16], index[32];
        for (int k = 0; k < 32; ++k) {
            const I signs = found[k / 2].signs[k % 2];
            scales[k / 2] = found[k / 2].scale;
            index[k] = Book::index(grid, found[k / 2].code[k % 2]);
            if constexpr (large) {
                out[2 + k] = index[k] & 255;
                out[34 + k] = signs;
            } else {
                out[2 + 2 * k] = index[k] & 255;
                out[3 + 2 * k] = index[k] >> 8 | signs << 1;
            }
        }
        typename L::M is_empty;
        put_half(pack_part_scales<L, 16>(scales, large ? 0.9875f : 1.f, integers, &is_empty), out);
        for (int j = 0; j < 8; ++j) {
            if constexpr (large) {
                const I * q = index + 4 * j;
                out[66 + j] = q[0] >> 8 | q[1] >> 8 << 2 | q[2] >> 8 << 4 | q[3] >> 8 << 6;
            }
            out[Base::bytes - 8 + j] = integers[2 * j] | integers[2 * j + 1] << 4;
        }
        if constexpr (!large) {
            clear<L, Base::bytes>(is_empty, out);
        }
        return false;
    }

    APEX_READS_TABLE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const int j = first / 32;
        const int k = first / 8;
        const int32_t scale4 = block[Base::bytes - 8 + j] >> (k / 2 % 2 * 4) & 15;
        const float scale = quarter_scale(half_at(block), scale4);
        if constexpr (large) {
            const int32_t high = block[66 + j] >> (k % 4 * 2) & 3;
            signed_point<8>(iq2s_grid[block[2 + k] | high << 8], block[34 + k], scale, out);
        } else {
            const int32_t code = pair_at(block + 2 + 2 * k);
            const int32_t signs = seven_signs(static_cast<uint32_t>(code >> 9), 0);
            signed_point<8>(iq2xs_grid[code & 511], signs, scale, out);
        }
    }
};

}  // namespace
}  // namespace apex
