// The points of the codebooks by their index in the format, for a search through all of them.
#pragma once

#include <cstdint>

namespace apex {

// A point has two halves of `digits` digits each, of which every one stands for a value: four of
// three for points of eight weights, two of eight for points of four.
struct Points {
    int count;
    int values;              // that a digit stands for
    const uint8_t * halves;  // per point the number of its lower and of its upper half
    const float * weights;   // per point its weights
    float value[8];          // that a digit stands for: magnitudes, or for IQ1 levels
};

// Built on first use, for the rest of the process.
const Points & points_iq1();
const Points & points_iq2_xxs();
const Points & points_iq2_xs();
const Points & points_iq2_s();
const Points & points_iq3_xxs();
const Points & points_iq3_s();

}  // namespace apex
