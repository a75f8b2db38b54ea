// What the formats of super-blocks of 256 weights have in common. A lane owns a super-block.
#pragma once

#include "formats/format.h"

namespace apex {
namespace {

constexpr int kSuper = 256;

struct SuperFormat : FormatDefaults {
    static constexpr int weights = kSuper;
};

template <typename L, int count, typename Weights>
APEX_HOST_DEVICE inline typename L::F sum_of_squares(Weights x) {
    auto sum = L::all(0.f);
    for (int i = 0; i < count; ++i) {
        sum += x[i] * x[i];
    }
    return sum;
}

// From importance to importance * sqrt(sigma2 + x^2); returns the sum.
template <typename L, int count>
APEX_HOST_DEVICE inline typename L::F importance_weights(const typename L::F * x,
                                                         typename L::F sigma2,
                                                         typename L::F * weight) {
    auto sum = L::all(0.f);
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        weight[i] *= square_root(sigma2 + x[i] * x[i]);
        sum += weight[i];
    }
    return sum;
}

// Two-bit fields: byte l of a half holds the elements l, l + 32, l + 64 and l + 96.
template <typename Levels, typename Out>
APEX_HOST_DEVICE inline void pack_two_bits(Levels l, Out bytes) {
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 32; ++i) {
            const auto q = l + 128 * half + i;
            bytes[32 * half + i] =
                (q[0] & 3) | (q[32] & 3) << 2 | (q[64] & 3) << 4 | (q[96] & 3) << 6;
        }
    }
}

// The level first + i of Q2_K, lower bits of Q3_K, upper ones of Q6_K. Byte l of a half holds the
// elements l, l + 32, l + 64 and l + 96.
APEX_HOST_DEVICE inline int32_t two_bits(const uint8_t * qs, int first, int i) {
    return qs[first / 128 * 32 + first % 32 + i] >> (first / 32 % 4 * 2) & 3;
}

}  // namespace
}  // namespace apex
