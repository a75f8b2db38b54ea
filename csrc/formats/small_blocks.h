// What the formats of blocks of 32 weights have in common. A lane owns a block.
#pragma once

#include "formats/format.h"

namespace apex {
namespace {

constexpr int kBlock = 32;

struct SmallFormat : FormatDefaults {
    static constexpr int weights = kBlock;
    static constexpr int parts = 1;
};

// Four or five bits per element. Byte i holds the elements i and i + 16; their fifth bits go into
// the four bytes of `high`. Without these the reference does not cut the elements to four bits, of
// which some have more where a denormal scale makes them overflow.
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

// The level first + i of Q4_0, Q4_1, Q5_0, Q5_1: fifth bits, if any, are in four bytes before `qs`.
template <bool five>
APEX_HOST_DEVICE inline int32_t small_level(const uint8_t * qs, int first, int i) {
    const int32_t low = qs[first % 16 + i] >> (first / 16 * 4) & 15;
    return five ? low | (qs[first / 8 - 4] >> i & 1) << 4 : low;
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

}  // namespace
}  // namespace apex
