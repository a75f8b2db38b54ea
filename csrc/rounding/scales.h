// The scales of quantized blocks, which can be changed while the levels stay.
#pragma once

#include <ggml.h>

#include <cstdint>

namespace apex::rounding {

// Whether the type's blocks have scales in binary16; those of MXFP4, for one, are powers of two.
bool has_scales(ggml_type type);

// Multiplies the scale of each block, and its minimum where it has one, by a factor: the product in
// binary32, rounded to the nearest binary16. A block in which one of them would become infinite, or
// zero where it was not, stays as it is. Throws std::invalid_argument for a type without scales.
void scale_blocks(ggml_type type, uint8_t * blocks, int64_t count, float factor);

}  // namespace apex::rounding
