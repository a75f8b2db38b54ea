// Takes the blocks of every format apart and puts them together again: a weight is
//   scale of its part * value of its level - minimum of its part,
// where the part's scale is d * (scale_base + scale_step * integer) and its minimum dmin * integer.
// The layouts are those of csrc/formats.
#pragma once

#include "formats/iq1.h"
#include "formats/iq2.h"
#include "formats/iq3.h"
#include "formats/iq4.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"
#include "formats/q4_k_q5_k.h"
#include "formats/q4_q5.h"
#include "formats/q6_k.h"
#include "formats/q8_0.h"
#include "tables/points.h"

namespace apex {
namespace {

// One block, taken apart.
struct Block {
    float d, dmin;
    int32_t scale[16], min[16];  // integers, by part
    int32_t level[kSuper];       // as packed: from zero on
    int32_t point[kSuper / 4];   // by group of a codebook: the index of its point
    int32_t signs[kSuper / 8];   // by eight weights: those set are negative; of IQ1 whether down
};

enum class Shift { none, of_part, of_eight };  // what IQ1 moves by an eighth together

struct CodecDefaults {
    static constexpr float scale_base = 0.f, scale_step = 1.f;
    static constexpr int scale_low = 0, scale_high = 0;  // equal: there is no integer
    static constexpr bool has_mins = false;
    static constexpr int min_low = 0, min_high = 0;
    static constexpr bool has_points = false, is_iq4 = false, parity = false;
    static constexpr Shift shift = Shift::none;
};

inline void put_float(float value, uint8_t * bytes) {
    put_half(Lanes<1>::to_half(value), bytes);
}

// Levels are evenly spaced: the first stands for level_base.
template <int base, int count>
struct EvenLevels : CodecDefaults {
    static constexpr int level_base = base, levels = count;
};

struct CodecQ2K : EvenLevels<0, 4> {
    using Format = Q2K;
    static constexpr int scale_high = 15, min_high = 15;
    static constexpr bool has_mins = true;

    static void read(const uint8_t * b, Block & block) {
        for (int j = 0; j < 16; ++j) {
            block.scale[j] = b[j] & 15;
            block.min[j] = b[j] >> 4;
        }
        for (int i = 0; i < kSuper; ++i) {
            block.level[i] = two_bits(b + 16, i, 0);
        }
        block.d = half_at(b + 80);
        block.dmin = half_at(b + 82);
    }
    static void write(const Block & block, uint8_t * b) {
        for (int j = 0; j < 16; ++j) {
            b[j] = static_cast<uint8_t>(block.scale[j] | block.min[j] << 4);
        }
        Q2K::pack(block.level, b);
        put_float(block.d, b + 80);
        put_float(block.dmin, b + 82);
    }
};

struct CodecQ3K : EvenLevels<-4, 8> {
    using Format = Q3K;
    static constexpr float scale_base = -32.f;
    static constexpr int scale_high = 63;

    static void read(const uint8_t * b, Block & block) {
        for (int j = 0; j < 16; ++j) {
            block.scale[j] =
                (b[96 + j % 8] >> (j / 8 * 4) & 15) | (b[104 + j % 4] >> (j / 4 * 2) & 3) << 4;
        }
        for (int i = 0; i < kSuper; ++i) {
            block.level[i] = two_bits(b + 32, i, 0) | (b[i % 32] >> i / 32 & 1) << 2;
        }
        block.d = half_at(b + 108);
    }
    static void write(const Block & block, uint8_t * b) {
        for (int j = 0; j < 8; ++j) {
            b[96 + j] =
                static_cast<uint8_t>((block.scale[j] & 15) | (block.scale[j + 8] & 15) << 4);
        }
        for (int j = 0; j < 4; ++j) {
            b[104 + j] =
                static_cast<uint8_t>(block.scale[j] >> 4 | block.scale[j + 4] >> 4 << 2 |
                                     block.scale[j + 8] >> 4 << 4 | block.scale[j + 12] >> 4 << 6);
        }
        Q3K::pack(block.level, b);
        put_float(block.d, b + 108);
    }
};

template <int limit>
struct CodecQ45K : EvenLevels<0, limit + 1> {
    using Format = Q45K<limit>;
    static constexpr int scale_high = 63, min_high = 63;
    static constexpr bool has_mins = true;

    static void read(const uint8_t * b, Block & block) {
        for (int j = 0; j < 8; ++j) {
            block.scale[j] = six_bit_scale(b + 4, j);
            block.min[j] = six_bit_min(b + 4, j);
        }
        const uint8_t * qs = b + Format::bytes - 128;
        for (int i = 0; i < kSuper; ++i) {
            block.level[i] = qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
            if (limit > 15) {
                block.level[i] |= (b[16 + i % 32] >> i / 32 & 1) << 4;
            }
        }
        block.d = half_at(b);
        block.dmin = half_at(b + 2);
    }
    static void write(const Block & block, uint8_t * b) {
        put_float(block.d, b);
        put_float(block.dmin, b + 2);
        const int32_t * ls = block.scale;
        const int32_t * lm = block.min;
        for (int j = 0; j < 4; ++j) {
            b[4 + j] = static_cast<uint8_t>(ls[j] | ls[j + 4] >> 4 << 6);
            b[8 + j] = static_cast<uint8_t>(lm[j] | lm[j + 4] >> 4 << 6);
            b[12 + j] = static_cast<uint8_t>((ls[j + 4] & 15) | (lm[j + 4] & 15) << 4);
        }
        Format::pack(block.level, b);
    }
};

struct CodecQ6K : EvenLevels<-32, 64> {
    using Format = Q6K;
    static constexpr int scale_low = -128, scale_high = 127;

    static void read(const uint8_t * b, Block & block) {
        for (int j = 0; j < 16; ++j) {
            block.scale[j] = Lanes<1>::signed_byte(b[192 + j]);
        }
        for (int i = 0; i < kSuper; ++i) {
            const int32_t low = b[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
            block.level[i] = low | two_bits(b + 128, i, 0) << 4;
        }
        block.d = half_at(b + 208);
    }
    static void write(const Block & block, uint8_t * b) {
        for (int j = 0; j < 16; ++j) {
            b[192 + j] = static_cast<uint8_t>(block.scale[j] & 255);
        }
        Q6K::pack(block.level, b);
        put_float(block.d, b + 208);
    }
};

// Q4_0 and Q5_0.
template <int limit>
struct CodecCentered : EvenLevels<-limit, 2 * limit> {
    using Format = Centered<limit>;
    static constexpr float scale_base = 1.f;

    static void read(const uint8_t * b, Block & block) {
        for (int i = 0; i < kBlock; ++i) {
            block.level[i] = small_level<Format::five>(b + Format::bytes - 16, i / 8 * 8, i % 8);
        }
        block.d = half_at(b);
    }
    static void write(const Block & block, uint8_t * b) {
        Format::pack(block.level, b);
        put_float(block.d, b);
    }
};

// Q4_1 and Q5_1: what is added is a minimum with the other sign.
template <int limit>
struct CodecShifted : EvenLevels<0, limit + 1> {
    using Format = Shifted<limit>;
    static constexpr float scale_base = 1.f;
    static constexpr bool has_mins = true;
    static constexpr int min_low = 1, min_high = 1;

    static void read(const uint8_t * b, Block & block) {
        for (int i = 0; i < kBlock; ++i) {
            block.level[i] = small_level<Format::five>(b + Format::bytes - 16, i / 8 * 8, i % 8);
        }
        block.d = half_at(b);
        block.dmin = -half_at(b + 2);
        block.min[0] = 1;
    }
    static void write(const Block & block, uint8_t * b) {
        Format::pack(block.level, b);
        put_float(block.d, b);
        put_float(-block.dmin, b + 2);
    }
};

struct CodecQ80 : EvenLevels<-127, 255> {
    using Format = Q80;
    static constexpr float scale_base = 1.f;

    static void read(const uint8_t * b, Block & block) {
        for (int i = 0; i < kBlock; ++i) {
            block.level[i] = Lanes<1>::signed_byte(b[2 + i]) + 127;
        }
        block.d = half_at(b);
    }
    static void write(const Block & block, uint8_t * b) {
        for (int i = 0; i < kBlock; ++i) {
            b[2 + i] = static_cast<uint8_t>((block.level[i] - 127) & 255);
        }
        put_float(block.d, b);
    }
};

template <int count>
struct CodecIq4 : EvenLevels<0, 16> {
    using Format = Iq4<count>;
    static constexpr bool is_iq4 = true;
    static constexpr bool super = count == 256;
    static constexpr float scale_base = super ? -32.f : 1.f;
    static constexpr int scale_high = super ? 63 : 0;

    static void read(const uint8_t * b, Block & block) {
        for (int j = 0; super && j < 8; ++j) {
            block.scale[j] = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (pair_at(b + 2) >> (2 * j) & 3)
                                                                      << 4;
        }
        for (int i = 0; i < count; ++i) {
            const uint8_t * qs = b + Format::bytes - count / 2 + i / 32 * 16;
            block.level[i] = qs[i % 16] >> (i / 16 % 2 * 4) & 15;
        }
        block.d = half_at(b);
    }
    static void write(const Block & block, uint8_t * b) {
        if constexpr (super) {
            int32_t high = 0;
            for (int j = 0; j < 8; ++j) {
                high |= block.scale[j] >> 4 << (2 * j);
            }
            put_half(high, b + 2);
            for (int j = 0; j < 4; ++j) {
                b[4 + j] = static_cast<uint8_t>((block.scale[2 * j] & 15) |
                                                (block.scale[2 * j + 1] & 15) << 4);
            }
        }
        Format::pack(block.level, b);
        put_float(block.d, b);
    }
};

// Formats with a codebook: a group is a point of it.
template <typename Format_, int group_>
struct PointCodec : CodecDefaults {
    using Format = Format_;
    static constexpr bool has_points = true;
    static constexpr int group = group_;
    static constexpr int level_base = 0, levels = 1;
};

// The four bits of scale of parts 2 * j and 2 * j + 1.
inline void read_nibbles(const uint8_t * b, int count, int32_t * scale) {
    for (int j = 0; j < count; ++j) {
        scale[j] = b[j / 2] >> (j % 2 * 4) & 15;
    }
}
inline void write_nibbles(const int32_t * scale, int count, uint8_t * b) {
    for (int j = 0; j < count / 2; ++j) {
        b[j] = static_cast<uint8_t>(scale[2 * j] | scale[2 * j + 1] << 4);
    }
}

struct CodecIq2Xxs : PointCodec<Iq2Xxs, 8> {
    static constexpr float scale_base = 0.125f, scale_step = 0.25f;
    static constexpr int scale_high = 15;
    static constexpr bool parity = true;
    static const Points & points() { return points_iq2_xxs(); }

    static void read(const uint8_t * b, Block & block) {
        block.d = half_at(b);
        for (int j = 0; j < 8; ++j) {
            const uint32_t word = word_at(b + 2 + 8 * j + 4);
            block.scale[j] = static_cast<int32_t>(word >> 28);
            for (int k = 0; k < 4; ++k) {
                block.point[4 * j + k] = b[2 + 8 * j + k];
                block.signs[4 * j + k] = seven_signs(word, k);
            }
        }
    }
    static void write(const Block & block, uint8_t * b) {
        put_float(block.d, b);
        for (int j = 0; j < 8; ++j) {
            uint32_t word = static_cast<uint32_t>(block.scale[j]) << 28;
            for (int k = 0; k < 4; ++k) {
                b[2 + 8 * j + k] = static_cast<uint8_t>(block.point[4 * j + k]);
                word |= static_cast<uint32_t>(block.signs[4 * j + k] & 127) << (7 * k);
            }
            put_word(static_cast<int32_t>(word), b + 2 + 8 * j + 4);
        }
    }
};

struct CodecIq2Xs : PointCodec<Iq2Xs<false>, 8> {
    static constexpr float scale_base = 0.125f, scale_step = 0.25f;
    static constexpr int scale_high = 15;
    static constexpr bool parity = true;
    static const Points & points() { return points_iq2_xs(); }

    static void read(const uint8_t * b, Block & block) {
        block.d = half_at(b);
        for (int k = 0; k < 32; ++k) {
            const int32_t code = pair_at(b + 2 + 2 * k);
            block.point[k] = code & 511;
            block.signs[k] = seven_signs(static_cast<uint32_t>(code >> 9), 0);
        }
        read_nibbles(b + 66, 16, block.scale);
    }
    static void write(const Block & block, uint8_t * b) {
        put_float(block.d, b);
        for (int k = 0; k < 32; ++k) {
            put_half(block.point[k] | (block.signs[k] & 127) << 9, b + 2 + 2 * k);
        }
        write_nibbles(block.scale, 16, b + 66);
    }
};

struct CodecIq2S : PointCodec<Iq2Xs<true>, 8> {
    static constexpr float scale_base = 0.125f, scale_step = 0.25f;
    static constexpr int scale_high = 15;
    static const Points & points() { return points_iq2_s(); }

    static void read(const uint8_t * b, Block & block) {
        block.d = half_at(b);
        for (int k = 0; k < 32; ++k) {
            block.point[k] = b[2 + k] | (b[66 + k / 4] >> (k % 4 * 2) & 3) << 8;
            block.signs[k] = b[34 + k];
        }
        read_nibbles(b + 74, 16, block.scale);
    }
    static void write(const Block & block, uint8_t * b) {
        put_float(block.d, b);
        for (int k = 0; k < 32; ++k) {
            b[2 + k] = static_cast<uint8_t>(block.point[k]);
            b[34 + k] = static_cast<uint8_t>(block.signs[k]);
        }
        for (int j = 0; j < 8; ++j) {
            const int32_t * point = block.point + 4 * j;
            b[66 + j] = static_cast<uint8_t>(point[0] >> 8 | point[1] >> 8 << 2 |
                                             point[2] >> 8 << 4 | point[3] >> 8 << 6);
        }
        write_nibbles(block.scale, 16, b + 74);
    }
};

struct CodecIq3Xxs : PointCodec<Iq3Xxs, 4> {
    static constexpr float scale_base = 0.25f, scale_step = 0.5f;
    static constexpr int scale_high = 15;
    static constexpr bool parity = true;
    static const Points & points() { return points_iq3_xxs(); }

    static void read(const uint8_t * b, Block & block) {
        block.d = half_at(b);
        for (int k = 0; k < 64; ++k) {
            block.point[k] = b[2 + k];
        }
        for (int j = 0; j < 8; ++j) {
            const uint32_t word = word_at(b + 66 + 4 * j);
            block.scale[j] = static_cast<int32_t>(word >> 28);
            for (int k = 0; k < 4; ++k) {
                block.signs[4 * j + k] = seven_signs(word, k);
            }
        }
    }
    static void write(const Block & block, uint8_t * b) {
        put_float(block.d, b);
        for (int k = 0; k < 64; ++k) {
            b[2 + k] = static_cast<uint8_t>(block.point[k]);
        }
        for (int j = 0; j < 8; ++j) {
            uint32_t word = static_cast<uint32_t>(block.scale[j]) << 28;
            for (int k = 0; k < 4; ++k) {
                word |= static_cast<uint32_t>(block.signs[4 * j + k] & 127) << (7 * k);
            }
            put_word(static_cast<int32_t>(word), b + 66 + 4 * j);
        }
    }
};

struct CodecIq3S : PointCodec<Iq3S, 4> {
    static constexpr float scale_base = 1.f, scale_step = 2.f;
    static constexpr int scale_high = 15;
    static const Points & points() { return points_iq3_s(); }

    static void read(const uint8_t * b, Block & block) {
        block.d = half_at(b);
        for (int k = 0; k < 64; ++k) {
            block.point[k] = b[2 + k] | (b[66 + k / 8] >> k % 8 & 1) << 8;
        }
        for (int k = 0; k < 32; ++k) {
            block.signs[k] = b[74 + k];
        }
        read_nibbles(b + 106, 8, block.scale);
    }
    static void write(const Block & block, uint8_t * b) {
        put_float(block.d, b);
        for (int j = 0; j < 8; ++j) {
            int32_t high = 0;
            for (int k = 0; k < 8; ++k) {
                b[2 + 8 * j + k] = static_cast<uint8_t>(block.point[8 * j + k]);
                high |= block.point[8 * j + k] >> 8 << k;
            }
            b[66 + j] = static_cast<uint8_t>(high);
        }
        for (int k = 0; k < 32; ++k) {
            b[74 + k] = static_cast<uint8_t>(block.signs[k]);
        }
        write_nibbles(block.scale, 8, b + 106);
    }
};

struct CodecIq1S : PointCodec<Iq1S, 8> {
    static constexpr float scale_base = 1.f, scale_step = 2.f;
    static constexpr int scale_high = 7;
    static constexpr Shift shift = Shift::of_part;
    static const Points & points() { return points_iq1(); }

    static void read(const uint8_t * b, Block & block) {
        block.d = half_at(b);
        for (int j = 0; j < 8; ++j) {
            const int32_t qh = pair_at(b + 34 + 2 * j);
            block.scale[j] = qh >> 12 & 7;
            for (int k = 0; k < 4; ++k) {
                block.point[4 * j + k] = b[2 + 4 * j + k] | (qh >> 3 * k & 7) << 8;
                block.signs[4 * j + k] = qh >> 15;
            }
        }
    }
    static void write(const Block & block, uint8_t * b) {
        put_float(block.d, b);
        for (int j = 0; j < 8; ++j) {
            int32_t qh = block.scale[j] << 12 | block.signs[4 * j] << 15;
            for (int k = 0; k < 4; ++k) {
                b[2 + 4 * j + k] = static_cast<uint8_t>(block.point[4 * j + k]);
                qh |= block.point[4 * j + k] >> 8 << 3 * k;
            }
            put_half(qh, b + 34 + 2 * j);
        }
    }
};

struct CodecIq1M : PointCodec<Iq1M, 8> {
    static constexpr float scale_base = 1.f, scale_step = 2.f;
    static constexpr int scale_high = 7;
    static constexpr Shift shift = Shift::of_eight;
    static const Points & points() { return points_iq1(); }

    static void read(const uint8_t * b, Block & block) {
        int32_t half = 0;
        for (int j = 0; j < 4; ++j) {
            const int32_t word = pair_at(b + 48 + 2 * j);
            half |= word >> 12 << 4 * j;
            for (int k = 0; k < 4; ++k) {
                block.scale[4 * j + k] = word >> 3 * k & 7;
            }
        }
        block.d = Lanes<1>::from_half(half);
        for (int k = 0; k < 32; ++k) {
            const int32_t qh = b[32 + k / 2] >> (k % 2 * 4) & 15;
            block.point[k] = b[k] | (qh & 7) << 8;
            block.signs[k] = qh >> 3;
        }
    }
    static void write(const Block & block, uint8_t * b) {
        const int32_t half = Lanes<1>::to_half(block.d);
        for (int j = 0; j < 4; ++j) {
            int32_t word = (half >> 4 * j & 15) << 12;
            for (int k = 0; k < 4; ++k) {
                word |= block.scale[4 * j + k] << 3 * k;
            }
            put_half(word, b + 48 + 2 * j);
        }
        for (int j = 0; j < 16; ++j) {
            int32_t qh = 0;
            for (int k = 2 * j; k < 2 * j + 2; ++k) {
                b[k] = static_cast<uint8_t>(block.point[k]);
                qh |= (block.point[k] >> 8 | block.signs[k] << 3) << (k % 2 * 4);
            }
            b[32 + j] = static_cast<uint8_t>(qh);
        }
    }
};

}  // namespace
}  // namespace apex
