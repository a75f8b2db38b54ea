// Conversions to F32, written so that the compiler vectorises them, with a check on the way.
#pragma once

#include <cstdint>

#include "lane/lane.h"

namespace apex {
namespace {

inline bool is_not_finite(int32_t bits) {
    return (bits & 0x7f800000) == 0x7f800000;
}

inline bool all_finite(const float * values, int64_t count) {
    bool bad = false;
    for (int64_t i = 0; i < count; ++i) {
        bad |= is_not_finite(Lane<1>::bits(values[i]));
    }
    return !bad;
}

inline bool convert_f16(const void * source, int64_t count, float * target) {
    const auto * values = static_cast<const uint16_t *>(source);
    bool bad = false;
    for (int64_t i = 0; i < count; ++i) {
        bad |= (values[i] & 0x7c00) == 0x7c00;
        target[i] = Lane<1>::from_half(values[i]);
    }
    return !bad;
}

inline bool convert_bf16(const void * source, int64_t count, float * target) {
    const auto * values = static_cast<const uint16_t *>(source);
    bool bad = false;
    for (int64_t i = 0; i < count; ++i) {
        const int32_t bits = static_cast<int32_t>(static_cast<uint32_t>(values[i]) << 16);
        bad |= is_not_finite(bits);
        target[i] = Lane<1>::from_bits(bits);
    }
    return !bad;
}

}  // namespace
}  // namespace apex
