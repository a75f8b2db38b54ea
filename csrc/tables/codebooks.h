// The codebooks of IQ1, IQ2 and IQ3: which points of a lattice are on the grid, and for every other
// point the grid points near it, as ggml's iq2xs_init_impl and iq3xs_init_impl list them.
//
// A lattice point has 8 coordinates of 0 .. 2 (IQ1, IQ2) or 4 of 0 .. 7 (IQ3). Its `code` holds
// them in 2 or 3 bits each, the first lowest; its `number` is the same in base 3 or 8.
#pragma once

#include <cstdint>

#include "lane/target.h"

namespace apex {

struct Grid {
    // Per number: the point's code if it is on the grid; else kOffGrid, the position of the list of
    // its neighbours divided by kListUnit, and above kLengthShift how many eights of points it has.
    const uint32_t * points;
    // Codes of grid points, nearest first, each list filled up to a whole unit with its first.
    const uint16_t * neighbours;
    // Per code of a grid point: its index in the format.
    const uint16_t * index;
    // How long the first two are; the third has one for every 16-bit number.
    uint32_t point_count;
    uint32_t neighbour_count;

    static constexpr uint32_t kOffGrid = 0x80000000u;
    static constexpr int kListUnit = 16;
    static constexpr int kLengthShift = 24;

    // Of an entry of `points` that is off the grid: where its list begins, and its length.
    APEX_HOST_DEVICE static uint32_t list(uint32_t entry) {
        return (entry & ((1u << kLengthShift) - 1)) * kListUnit;
    }
    APEX_HOST_DEVICE static int eights(uint32_t entry) {
        return static_cast<int>((entry & ~kOffGrid) >> kLengthShift);
    }
};

// Built on first use, for the rest of the process.
const Grid & grid_iq1();
const Grid & grid_iq2_xxs();
const Grid & grid_iq2_xs();
const Grid & grid_iq2_s();
const Grid & grid_iq3_xxs();
const Grid & grid_iq3_s();

}  // namespace apex
