// Blocks back into floats, eight weights at a time: one text for the CPU and for a GPU thread.
//
// A struct per format, named as the one that quantizes it; `eight` writes the weights first ..
// first + 7 of a block, `first` being a multiple of eight. Equal to ggml's dequantize_row_q8_0, and
// so on: every product and sum in the same order, so the floats are the same bits, but for those
// of a NaN, of which a GPU has only one. The layouts are above the kernels that write them; a block
// is bytes here, at any address.
//
// `out` had better be a local array: the compiler must take one of unknown origin for the block.
// Compiled by nvcc, the formats with a table (MXFP4, IQ*) are there for the device only.
#pragma once

#include <cstdint>

#include "lane/lanes.h"
#include "lane/target.h"
#include "tables/upstream.h"

// What reads upstream's tables, which nvcc puts on the device: the host must not call it there.
#if defined(__CUDACC__)
#define APEX_READS_TABLE __device__
#else
#define APEX_READS_TABLE
#endif

namespace apex {
namespace {
namespace dequantize {

// Little-endian numbers of 16 and 32 bits.
APEX_HOST_DEVICE inline int32_t pair_at(const uint8_t * bytes) {
    return bytes[0] | bytes[1] << 8;
}
APEX_HOST_DEVICE inline uint32_t word_at(const uint8_t * bytes) {
    return static_cast<uint32_t>(pair_at(bytes)) | static_cast<uint32_t>(pair_at(bytes + 2)) << 16;
}

APEX_HOST_DEVICE inline float half_at(const uint8_t * bytes) {
    return Lanes<1>::from_half(pair_at(bytes));
}

struct Q80 {
    static constexpr int weights = 32;
    static constexpr int bytes = 34;

    APEX_HOST_DEVICE static void eight(const uint8_t * block, int first, float * out) {
        const float d = half_at(block);
        for (int i = 0; i < 8; ++i) {
            out[i] = to_float(Lanes<1>::signed_byte(block[2 + first + i])) * d;
        }
    }
};

// The level first + i of Q4_0, Q4_1, Q5_0, Q5_1: fifth bits, if any, are in four bytes before `qs`.
template <bool five>
APEX_HOST_DEVICE inline int32_t small_level(const uint8_t * qs, int first, int i) {
    const int32_t low = qs[first % 16 + i] >> (first / 16 * 4) & 15;
    return five ? low | (qs[first / 8 - 4] >> i & 1) << 4 : low;
}

// Q4_0 and Q5_0: `limit` is 8 or 16, the levels -limit .. limit - 1.
template <int limit>
struct Centered {
    static constexpr bool five = limit == 16;
    static constexpr int weights = 32;
    static constexpr int bytes = five ? 22 : 18;

    APEX_HOST_DEVICE static void eight(const uint8_t * block, int first, float * out) {
        const float d = half_at(block);
        for (int i = 0; i < 8; ++i) {
            out[i] = to_float(small_level<five>(block + bytes - 16, first, i) - limit) * d;
        }
    }
};

// Q4_1 and Q5_1: the levels 0 .. limit above a minimum.
template <int limit>
struct Shifted {
    static constexpr bool five = limit == 31;
    static constexpr int weights = 32;
    static constexpr int bytes = five ? 24 : 20;

    APEX_HOST_DEVICE static void eight(const uint8_t * block, int first, float * out) {
        const float d = half_at(block);
        const float min = half_at(block + 2);
        for (int i = 0; i < 8; ++i) {
            out[i] = to_float(small_level<five>(block + bytes - 16, first, i)) * d + min;
        }
    }
};

struct Mxfp4 {
    static constexpr int weights = 32;
    static constexpr int bytes = 17;

    APEX_READS_TABLE static void eight(const uint8_t * block, int first, float * out) {
        // Half of 2^(e - 127), for the values are doubled; denormal where e is 0 or 1. No NaN.
        const int32_t e = block[0];
        const float d = Lanes<1>::from_bits(e < 2 ? 0x00200000 << e : (e - 1) << 23);
        for (int i = 0; i < 8; ++i) {
            out[i] = to_float(kvalues_mxfp4[small_level<false>(block + 1, first, i)]) * d;
        }
    }
};

// The level first + i of Q2_K, lower bits of Q3_K, upper ones of Q6_K. Byte l of a half holds the
// elements l, l + 32, l + 64 and l + 96.
APEX_HOST_DEVICE inline int32_t two_bits(const uint8_t * qs, int first, int i) {
    return qs[first / 128 * 32 + first % 32 + i] >> (first / 32 % 4 * 2) & 3;
}

struct Q2K {
    static constexpr int weights = 256;
    static constexpr int bytes = 84;

    APEX_HOST_DEVICE static void eight(const uint8_t * block, int first, float * out) {
        const int32_t both = block[first / 16];
        const float scale = half_at(block + 80) * to_float(both & 15);
        const float min = half_at(block + 82) * to_float(both >> 4);
        for (int i = 0; i < 8; ++i) {
            out[i] = scale * to_float(two_bits(block + 16, first, i)) - min;
        }
    }
};

struct Q3K {
    static constexpr int weights = 256;
    static constexpr int bytes = 110;

    APEX_HOST_DEVICE static void eight(const uint8_t * block, int first, float * out) {
        const uint8_t * packed = block + 96;
        const int j = first / 16;
        const int32_t low = packed[j % 8] >> (j / 8 * 4) & 15;
        const int32_t high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        const float scale = half_at(block + 108) * to_float((low | high << 4) - 32);
        for (int i = 0; i < 8; ++i) {
            const int32_t top = block[first % 32 + i] >> first / 32 & 1;
            out[i] = scale * to_float((two_bits(block + 32, first, i) | top << 2) - 4);
        }
    }
};

// Q4_K and Q5_K: the levels 0 .. limit.
template <int limit>
struct Q45K {
    static constexpr bool five = limit == 31;
    static constexpr int weights = 256;
    static constexpr int bytes = five ? 176 : 144;

    APEX_HOST_DEVICE static void eight(const uint8_t * block, int first, float * out) {
        // The first four scales and mins are whole; those of the others are in two pieces.
        const uint8_t * packed = block + 4;
        const int j = first / 32;
        const bool whole = j < 4;
        const int32_t scale6 =
            whole ? packed[j] & 63 : (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
        const int32_t min6 = whole ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
        const float scale = half_at(block) * to_float(scale6);
        const float min = half_at(block + 2) * to_float(min6);
        const uint8_t * qs = block + bytes - 128 + first / 64 * 32 + first % 32;
        const uint8_t * qh = block + 16 + first % 32;
        for (int i = 0; i < 8; ++i) {
            int32_t level = qs[i] >> (j % 2 * 4) & 15;
            if constexpr (five) {
                level |= (qh[i] >> j & 1) << 4;
            }
            out[i] = scale * to_float(level) - min;
        }
    }
};

struct Q6K {
    static constexpr int weights = 256;
    static constexpr int bytes = 210;

    APEX_HOST_DEVICE static void eight(const uint8_t * block, int first, float * out) {
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

// IQ4_NL and IQ4_XS.
template <int count>
struct Iq4 {
    static constexpr bool super = count == 256;
    static constexpr int weights = count;
    static constexpr int bytes = super ? 136 : 18;

    APEX_READS_TABLE static void eight(const uint8_t * block, int first, float * out) {
        float scale = half_at(block);
        const int j = first / 32;
        if constexpr (super) {
            const int32_t low = block[4 + j / 2] >> (j % 2 * 4) & 15;
            const int32_t high = pair_at(block + 2) >> (2 * j) & 3;
            scale *= to_float((low | high << 4) - 32);
        }
        const uint8_t * qs = block + bytes - count / 2 + 16 * j;
        for (int i = 0; i < 8; ++i) {
            out[i] = scale * to_float(kvalues_iq4nl[small_level<false>(qs, first % 32, i)]);
        }
    }
};

// Four or eight magnitudes of a grid, a byte each, times the scale, under the signs that are set.
template <int count, typename Point>
APEX_HOST_DEVICE inline void signed_point(Point point, int32_t signs, float scale, float * out) {
    for (int i = 0; i < count; ++i) {
        const float magnitude = scale * to_float(static_cast<int32_t>(point >> 8 * i & 255));
        out[i] = signs >> i & 1 ? -magnitude : magnitude;
    }
}

// The `at`th seven signs of a word, and the eighth: with it, the number of those set is even.
APEX_HOST_DEVICE inline int32_t seven_signs(uint32_t word, int at) {
    const auto signs = static_cast<int32_t>(word >> 7 * at & 127);
    const int32_t odd = 0x6996 >> ((signs ^ signs >> 4) & 15) & 1;
    return signs | odd << 7;
}

// The scale of a part of IQ2: four bits of `scales`, 0 .. 15.
APEX_HOST_DEVICE inline float quarter_scale(float d, int32_t scale) {
    return d * (0.5f + to_float(scale)) * 0.25f;
}

struct Iq2Xxs {
    static constexpr int weights = 256;
    static constexpr int bytes = 66;

    APEX_READS_TABLE static void eight(const uint8_t * block, int first, float * out) {
        const uint8_t * part = block + 2 + first / 32 * 8;
        const int k = first / 8 % 4;
        const uint32_t word = word_at(part + 4);
        const float scale = quarter_scale(half_at(block), static_cast<int32_t>(word >> 28));
        signed_point<8>(iq2xxs_grid[part[k]], seven_signs(word, k), scale, out);
    }
};

// IQ2_S, if `large`: more points and all signs.
template <bool large>
struct Iq2Xs {
    static constexpr int weights = 256;
    static constexpr int bytes = large ? 82 : 74;

    APEX_READS_TABLE static void eight(const uint8_t * block, int first, float * out) {
        const int j = first / 32;
        const int k = first / 8;
        const int32_t scale4 = block[bytes - 8 + j] >> (k / 2 % 2 * 4) & 15;
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

struct Iq3Xxs {
    static constexpr int weights = 256;
    static constexpr int bytes = 98;

    APEX_READS_TABLE static void eight(const uint8_t * block, int first, float * out) {
        const uint8_t * qs = block + 2 + first / 4;
        const uint32_t word = word_at(block + 66 + first / 32 * 4);
        const int32_t signs = seven_signs(word, first / 8 % 4);
        const float scale =
            half_at(block) * (0.5f + to_float(static_cast<int32_t>(word >> 28))) * 0.5f;
        signed_point<4>(iq3xxs_grid[qs[0]], signs, scale, out);
        signed_point<4>(iq3xxs_grid[qs[1]], signs >> 4, scale, out + 4);
    }
};

struct Iq3S {
    static constexpr int weights = 256;
    static constexpr int bytes = 110;

    APEX_READS_TABLE static void eight(const uint8_t * block, int first, float * out) {
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
};

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

struct Iq1S {
    static constexpr int weights = 256;
    static constexpr int bytes = 50;

    APEX_READS_TABLE static void eight(const uint8_t * block, int first, float * out) {
        const int k = first / 8;
        const int32_t qh = pair_at(block + 34 + first / 32 * 2);
        const float scale = half_at(block) * to_float(2 * (qh >> 12 & 7) + 1);
        moved_point(block[2 + k], (qh >> (k % 4 * 3) & 7) | (qh >> 15) << 3, scale, out);
    }
};

struct Iq1M {
    static constexpr int weights = 256;
    static constexpr int bytes = 56;

    APEX_READS_TABLE static void eight(const uint8_t * block, int first, float * out) {
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

}  // namespace dequantize
}  // namespace
}  // namespace apex
