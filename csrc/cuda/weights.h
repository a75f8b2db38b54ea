// From rows in device memory to the shared memory of a thread block, and back as bytes.
#pragma once

#include <cstring>

#include "cuda/arguments.h"
#include "cuda/thread_block.h"
#include "formats/format.h"

namespace apex {
namespace {

using L1 = Lanes<1>;

// Sixteen bytes, which a thread loads at once.
struct alignas(16) Sixteen {
    uint32_t words[4];
};

// Eight weights as floats; `first` is a multiple of eight. Returns whether all are finite.
__device__ inline bool load_eight(const void * source, cuda::Source type, int64_t first,
                                  float * target) {
    int32_t largest = 0;
    if (type == cuda::Source::f32) {
        const auto * from = static_cast<const Sixteen *>(source) + first / 4;
        const Sixteen parts[2] = {from[0], from[1]};
        APEX_UNROLL
        for (int i = 0; i < 8; ++i) {
            const auto bits = static_cast<int32_t>(parts[i / 4].words[i % 4]);
            largest = L1::max(largest, bits & 0x7fffffff);
            target[i] = L1::from_bits(bits);
        }
        return largest < 0x7f800000;
    }
    const Sixteen loaded = static_cast<const Sixteen *>(source)[first / 8];
    APEX_UNROLL
    for (int i = 0; i < 8; ++i) {
        const auto half = static_cast<int32_t>(loaded.words[i / 2] >> (16 * (i % 2)) & 0xffff);
        largest = L1::max(largest, half & 0x7fff);
        target[i] = type == cuda::Source::f16
                        ? L1::from_half(half)
                        : L1::from_bits(static_cast<int32_t>(static_cast<uint32_t>(half) << 16));
    }
    return largest < (type == cuda::Source::f16 ? 0x7c00 : 0x7f80);
}

// The blocks of the format that one thread block has.
template <int weights, int bytes, int per_block>
struct Range {
    const cuda::QuantizeArguments & arguments;
    uint32_t first;
    int count;

    __device__ Range(const ThreadBlock & threads, const cuda::QuantizeArguments & given)
        : arguments(given), first(threads.index() * per_block) {
        const uint32_t left = given.blocks - first;
        count = left < per_block ? static_cast<int>(left) : per_block;
    }

    // Calls put(i, eight floats) for every eighth weight i of the range.
    template <typename Put>
    __device__ void load(const ThreadBlock & threads, Put put) const {
        threads.each(count * weights / 8, [&](int eight) {
            float values[8];
            if (!load_eight(arguments.source, arguments.source_type,
                            static_cast<int64_t>(first) * weights + 8 * eight, values)) {
                arguments.flags->not_finite = 1;
                for (float & value : values) {  // a NaN has no place in an order, nor a level
                    value = 0.f;
                }
            }
            put(8 * eight, values);
        });
    }

    // The importance of a block's columns.
    __device__ const float * importance(int block) const {
        const uint32_t at = first + static_cast<uint32_t>(block);
        const uint32_t row = at / arguments.blocks_per_row;
        const uint32_t column = at - row * arguments.blocks_per_row;
        const uint32_t expert = row / arguments.rows_per_expert;
        return arguments.importance +
               (static_cast<int64_t>(expert) * arguments.blocks_per_row + column) * weights;
    }

    __device__ uint32_t row(int block) const {
        return (first + static_cast<uint32_t>(block)) / arguments.blocks_per_row;
    }

    __device__ void report(bool too_large) const {
        if (too_large) {
            arguments.flags->too_large = 1;
        }
    }

    // Writes the finished bytes, which are aligned to words in shared memory and on the device.
    __device__ void store(const ThreadBlock & threads, const uint8_t * from) const {
        uint8_t * target = arguments.target + static_cast<int64_t>(first) * bytes;
        const int words = count * bytes / 4;
        threads.each(words, [&](int i) {
            reinterpret_cast<uint32_t *>(target)[i] = reinterpret_cast<const uint32_t *>(from)[i];
        });
        threads.each(count * bytes % 4,
                     [&](int i) { target[4 * words + i] = from[4 * words + i]; });
    }
};

// `count` floats, a multiple of four, from global memory; the address is a multiple of sixteen.
__device__ inline void load_floats(const float * source, int count, float * target) {
    for (int i = 0; i < count; i += 4) {
        const Sixteen part = *reinterpret_cast<const Sixteen *>(source + i);
        APEX_UNROLL
        for (int k = 0; k < 4; ++k) {
            target[i + k] = L1::from_bits(static_cast<int32_t>(part.words[k]));
        }
    }
}

// What a format looks up, from the device's memory to shared memory.
template <typename Tables>
__device__ void load_tables(const ThreadBlock & threads, const void * source, Tables * target) {
    static_assert(sizeof(Tables) % 4 == 0 || sizeof(Tables) == 1);
    threads.each(static_cast<int>(sizeof(Tables) / 4), [&](int i) {
        reinterpret_cast<uint32_t *>(target)[i] = static_cast<const uint32_t *>(source)[i];
    });
}

}  // namespace
}  // namespace apex
