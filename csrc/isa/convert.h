// Conversions to F32, written so that the compiler vectorises them, with a check on the way.
#pragma once

#include <cstdint>

#include "lane/lanes.h"

namespace apex {
namespace {

// A value is finite if its magnitude, read as an integer, is below infinity's. The largest one is
// kept instead of an early exit.

inline bool all_finite(const float * values, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int32_t magnitude = Lanes<1>::bits(values[i]) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < 0x7f800000;
}

inline bool convert_f16(const void * source, int64_t count, float * target) {
    const auto * values = static_cast<const int16_t *>(source);
    int16_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        const auto magnitude = static_cast<int16_t>(values[i] & 0x7fff);
        largest = magnitude > largest ? magnitude : largest;
        target[i] = Lanes<1>::from_half(values[i]);
    }
    return largest < 0x7c00;
}

inline bool convert_bf16(const void * source, int64_t count, float * target) {
    const auto * values = static_cast<const int16_t *>(source);
    int16_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        const auto magnitude = static_cast<int16_t>(values[i] & 0x7fff);
        largest = magnitude > largest ? magnitude : largest;
        target[i] =
            Lanes<1>::from_bits(static_cast<int32_t>(static_cast<uint32_t>(values[i]) << 16));
    }
    return largest < 0x7f80;
}

}  // namespace
}  // namespace apex
