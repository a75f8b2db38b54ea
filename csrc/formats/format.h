// A format is a struct of steps over one block (or super-block) of `weights` weights and `bytes`
// bytes, whose `parts` parts are searched by themselves. formats/q6_k.h is the one to learn from.
//
// Steps that quantize:
//   sigma2   once per block   what corrects the importance: a mean of squares
//   search   once per part    its scale, and what else is `Found`; returns whether a weight is too
//                             large for the format
//   combine  once per block   all scales as integers; writes their bytes, leaves `Scales`; returns
//                             the same. Where `keeps_weights`, it is given the block's values and
//                             the weights of their errors too.
//   round    once per part    the levels of its weights
//   pack     once per block   the levels as bytes
// Formats with a codebook have no levels: there combine writes every byte. And back:
//   dequantize_eight          the weights first .. first + 7 of a block; `first` is a multiple of
//                             eight, the block is bytes at any address. Equal to ggml's
//                             dequantize_row_…: every product and sum in the same order, but a GPU
//                             has only one NaN. GPUs use it; the processor calls ggml's own.
//                             `out` should be a local array: then the compiler knows that it
//                             is not the block.
//
// The steps see lanes. On a processor a lane owns a block, and isa/blocks.h runs the steps one
// after the other; on a GPU, csrc/cuda shares them among the threads of a thread block, at width
// one. `Tables` is what the steps look up; `halves` are the places of the block's binary16 numbers.
#pragma once

#include <cstdint>

#include "lane/lanes.h"

namespace apex {
namespace {

// Where a block has its binary16 numbers.
template <int... places>
struct Halves {
    template <typename Byte>
    APEX_HOST_DEVICE static bool any_infinite([[maybe_unused]] const Byte * bytes) {
        return (false || ... || any((bytes[places + 1] & 0x7c) == 0x7c));
    }
};

// For formats that look nothing up.
struct NoTables {
    static const NoTables & get() {
        static const NoTables none;
        return none;
    }
};

// What formats have in common, unless they say otherwise.
struct FormatDefaults {
    using Tables = NoTables;
    static constexpr bool has_levels = true;
    static constexpr bool leaves_levels = false;  // search writes levels that round may keep
    static constexpr bool by_row = false;         // sigma2 is the mean square of the whole row
    static constexpr bool keeps_weights = false;  // for combine

    template <typename L>
    struct Scales {};

    // How many parts a search takes at a time.
    template <typename L, bool weighted>
    APEX_HOST_DEVICE static constexpr int together() {
        return 1;
    }

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2(Weights) {
        return L::all(0.f);
    }
};

template <typename I, typename Out>
APEX_HOST_DEVICE inline void put_half(I half, Out bytes) {
    bytes[0] = half & 255;
    bytes[1] = half >> 8 & 255;
}

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

}  // namespace
}  // namespace apex
