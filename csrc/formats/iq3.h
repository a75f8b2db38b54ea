// IQ3_XXS, IQ3_S. Byte layouts, d being binary16:
//   IQ3_XXS  98   d, grid 64, per 32: 4 x 7 signs and a 4-bit scale
//   IQ3_S   110   d, grid 64, grid high bits 8, signs 32, scales 4
// Equal to ggml's quantize_row_iq3_xxs_impl and dequantize_row_iq3_xxs, and so on.
#pragma once

#include "formats/grid_blocks.h"

namespace apex {
namespace {

struct Iq3Xxs : GridFormat<Iq3Xxs, 98, 8, 4, 3, true> {
    static constexpr float share = 0.f;
    struct Tables : Grid {
        static constexpr int longest = 36;  // list of neighbours
        static const Grid & get() { return grid_iq3_xxs(); }
    };
    APEX_HOST_DEVICE static constexpr GridRules rules() {
        return {true, 1e-8f, 15, 0.2f, Refine::those_off, false};
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const Found<L> * found, Scales<L> *,
                                         Out out) {
        typename L::F scales[8];
        typename L::I integers[8];
        for (int j = 0; j < 8; ++j) {
            scales[j] = found[j].scale;
            for (int k = 0; k < 8; ++k) {
                out[2 + 8 * j + k] = Book<L>::index(grid, found[j].code[k]);
            }
        }
        typename L::M is_empty;
        put_half(pack_part_scales<L, 8>(scales, 1.0125f, integers, &is_empty), out);
        for (int j = 0; j < 8; ++j) {
            put_word(signs_and_scale(found[j], integers[j]), out + 66 + 4 * j);
        }
        clear<L, bytes>(is_empty, out);
        return false;
    }

    APEX_READS_TABLE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const uint8_t * qs = block + 2 + first / 4;
        const uint32_t word = word_at(block + 66 + first / 32 * 4);
        const int32_t signs = seven_signs(word, first / 8 % 4);
        const float scale =
            half_at(block) * (0.5f + to_float(static_cast<int32_t>(word >> 28))) * 0.5f;
        signed_point<4>(iq3xxs_grid[qs[0]], signs, scale, out);
        signed_point<4>(iq3xxs_grid[qs[1]], signs >> 4, scale, out + 4);
    }
};

struct Iq3S : GridFormat<Iq3S, 110, 8, 4, 3, true> {
    static constexpr float share = 0.f;
    struct Tables : Grid {
        static constexpr int longest = 38;  // list of neighbours
        static const Grid & get() { return grid_iq3_s(); }
    };
    APEX_HOST_DEVICE static constexpr GridRules rules() {
        return {false, 0.f, 9, 0.2f, Refine::all_if_off, false};
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const Found<L> * found, Scales<L> *,
                                         Out out) {
        using I = typename L::I;
        typename L::F scales[8];
        I integers[8];
        I place{};
        for (int i = 2; i < bytes; ++i) {
            out[i] = I{};
        }
        for (int j = 0; j < 8; ++j) {
            scales[j] = found[j].scale;
            I index[8];
            I high{};
            for (int k = 0; k < 8; ++k) {
                index[k] = Book<L>::index(grid, found[j].code[k]);
                high |= index[k] >> 8 << k;
            }
            out[66 + j] = high;
            // The reference does not step over the place of a part that is zero.
            for (int t = any(place != j) ? 0 : j; t <= j; ++t) {
                const auto here = place == t;
                put<L, 8>(here, index, out + 2 + 8 * t);
                put<L, 4>(here, found[j].signs, out + 74 + 4 * t);
            }
            place += L::select(found[j].is_zero, I{}, L::all(1));
        }
        typename L::M is_empty;
        put_half(pack_part_scales<L, 8>(scales, 1.033f, integers, &is_empty), out);
        for (int j = 0; j < 4; ++j) {
            out[106 + j] = integers[2 * j] | integers[2 * j + 1] << 4;
        }
        return false;
    }

    APEX_READS_TABLE static void dequantize_eight(const uint8_t * block, int first, float * out) {
        const uint8_t * qs = block + 2 + first / 4;
        const int j = first / 32;
        const int k = first / 8;
        const int32_t scale4 = block[106 + j / 2] >> (j % 2 * 4) & 15;
        const float scale = half_at(block) * to_float(1 + 2 * scale4);
        const int32_t high = block[66 + j] >> (k % 4 * 2);
        const int32_t signs = block[74 + k];
        signed_point<4>(iq3s_grid[qs[0] | (high & 1) << 8], signs, scale, out);
        signed_point<4>(iq3s_grid[qs[1] | (high & 2) << 7], signs >> 4, scale, out + 4);
    }

  private:
    template <typename L, int count, typename Out>
    APEX_HOST_DEVICE static void put(typename L::M here, const typename L::I * values, Out target) {
        for (int k = 0; k < count; ++k) {
            target[k] = L::select(here, values[k] & 255, target[k]);
        }
    }
};

}  // namespace
}  // namespace apex
