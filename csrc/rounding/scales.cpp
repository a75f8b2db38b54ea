#include "scales.h"

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

namespace apex::rounding {

namespace {

constexpr int kNone = -1;
constexpr uint16_t kInfinity = 0x7c00;  // the exponent of infinity and NaN
constexpr uint16_t kMagnitude = 0x7fff;

// Where a block has its scale and its minimum, in bytes from its begin (csrc/formats).
struct Places {
    ggml_type type;
    int scale;
    int minimum;
};

constexpr Places kPlaces[] = {
    {GGML_TYPE_Q4_0, 0, kNone},   {GGML_TYPE_Q4_1, 0, 2},        {GGML_TYPE_Q5_0, 0, kNone},
    {GGML_TYPE_Q5_1, 0, 2},       {GGML_TYPE_Q8_0, 0, kNone},    {GGML_TYPE_Q2_K, 80, 82},
    {GGML_TYPE_Q3_K, 108, kNone}, {GGML_TYPE_Q4_K, 0, 2},        {GGML_TYPE_Q5_K, 0, 2},
    {GGML_TYPE_Q6_K, 208, kNone}, {GGML_TYPE_IQ4_NL, 0, kNone},  {GGML_TYPE_IQ4_XS, 0, kNone},
    {GGML_TYPE_IQ3_S, 0, kNone},  {GGML_TYPE_IQ3_XXS, 0, kNone}, {GGML_TYPE_IQ2_S, 0, kNone},
    {GGML_TYPE_IQ2_XS, 0, kNone}, {GGML_TYPE_IQ2_XXS, 0, kNone}, {GGML_TYPE_IQ1_S, 0, kNone},
};
// IQ1_M has four words of scales, and the four pieces of the block's own in their highest bits.
constexpr int kIq1mScales = 48;

const Places * places_of(ggml_type type) {
    for (const Places & places : kPlaces) {
        if (places.type == type) {
            return &places;
        }
    }
    return nullptr;
}

uint16_t load(const uint8_t * bytes) {
    uint16_t value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
}

void store(uint8_t * bytes, uint16_t value) {
    std::memcpy(bytes, &value, sizeof(value));
}

// The scale times the factor; nothing where that is infinite, or zero though the scale is not.
std::optional<uint16_t> multiplied(uint16_t scale, float factor) {
    const uint16_t result = ggml_fp32_to_fp16(ggml_fp16_to_fp32(scale) * factor);
    const bool vanishes = (result & kMagnitude) == 0 && (scale & kMagnitude) != 0;
    if ((result & kInfinity) == kInfinity || vanishes) {
        return std::nullopt;
    }
    return result;
}

void scale_block(const Places & places, uint8_t * block, float factor) {
    const auto scale = multiplied(load(block + places.scale), factor);
    if (places.minimum == kNone) {
        if (scale) {
            store(block + places.scale, *scale);
        }
        return;
    }
    const auto minimum = multiplied(load(block + places.minimum), factor);
    if (scale && minimum) {
        store(block + places.scale, *scale);
        store(block + places.minimum, *minimum);
    }
}

void scale_iq1m(uint8_t * block, float factor) {
    uint16_t whole = 0;
    for (int i = 0; i < 4; ++i) {
        const int piece = load(block + kIq1mScales + 2 * i) >> 12;
        whole = static_cast<uint16_t>(whole | piece << 4 * i);
    }
    const auto scale = multiplied(whole, factor);
    for (int i = 0; scale && i < 4; ++i) {
        uint8_t * word = block + kIq1mScales + 2 * i;
        const int piece = (*scale >> 4 * i & 0xf) << 12;
        store(word, static_cast<uint16_t>((load(word) & 0x0fff) | piece));
    }
}

}  // namespace

bool has_scales(ggml_type type) {
    return type == GGML_TYPE_IQ1_M || places_of(type) != nullptr;
}

void scale_blocks(ggml_type type, uint8_t * blocks, int64_t count, float factor) {
    const Places * places = places_of(type);
    if (places == nullptr && type != GGML_TYPE_IQ1_M) {
        throw std::invalid_argument(std::string("blocks of type ") + ggml_type_name(type) +
                                    " have no scales in binary16");
    }
    const auto block_bytes = static_cast<int64_t>(ggml_type_size(type));
    for (int64_t i = 0; i < count; ++i) {
        uint8_t * block = blocks + i * block_bytes;
        if (places != nullptr) {
            scale_block(*places, block, factor);
        } else {
            scale_iq1m(block, factor);
        }
    }
}

}  // namespace apex::rounding
