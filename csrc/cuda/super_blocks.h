// What the formats with a codebook have in common: whole super-blocks in shared memory, codebooks
// in device memory, and room for the terms of the distances to their points.
#pragma once

#include "cuda/weights.h"
#include "kernels/k_quants.h"
#include "kernels/snap.h"

namespace apex {
namespace {

// Floats of one thread that lie between those of the others: side by side, they meet no bank twice.
template <int stride>
struct Strided {
    float * base;
    APEX_HOST_DEVICE float & operator[](int i) { return base[i * stride]; }
    APEX_HOST_DEVICE const float & operator[](int i) const { return base[i * stride]; }
};

// The weights of the range to shared.x, and shared.sigma2 of every super-block.
template <typename Format, bool weighted, typename Range, typename Shared>
__device__ void load_super_blocks(const Block & block, const Range & range, Shared & shared) {
    range.load(block, [&](int i, const float * values) {
        APEX_UNROLL
        for (int k = 0; k < 8; ++k) {
            shared.x[i / kSuper][i % kSuper + k] = values[k];
        }
    });
    block.each(range.count, [&](int b) {
        shared.sigma2[b] =
            Format::template sigma2<L1, weighted>(static_cast<const float *>(shared.x[b]));
    });
}

// Terms of distances (lane/nearest.h) of as many threads, a power of two. A thread's number and the
// level that is looked up are different bits of an index, so that finding it takes a shift and one
// logical operation.
template <int threads>
struct SharedTerms {
    float * values;
    int thread;

    __device__ float & operator[](int number) const { return values[number * threads + thread]; }

    template <int bits>
    __device__ float at(int i, uint32_t code) const {
        constexpr uint32_t mask = ((1u << bits) - 1) * threads;
        const uint32_t level = (code * threads) >> (bits * i) & mask;
        return values[(i << bits) * threads +
                      static_cast<int>(level | static_cast<uint32_t>(thread))];
    }
};

template <typename Tables>
std::vector<unsigned char> grid_tables(cuda::TableMemory & memory) {
    Grid grid = Tables::get();
    constexpr size_t codes = size_t{1} << 16;
    grid.points = static_cast<const uint32_t *>(
        memory.copy(grid.points, grid.point_count * sizeof(*grid.points)));
    grid.neighbours = static_cast<const uint16_t *>(
        memory.copy(grid.neighbours, grid.neighbour_count * sizeof(*grid.neighbours)));
    grid.index =
        static_cast<const uint16_t *>(memory.copy(grid.index, codes * sizeof(*grid.index)));
    const auto * bytes = reinterpret_cast<const unsigned char *>(&grid);
    return {bytes, bytes + sizeof(grid)};
}

}  // namespace
}  // namespace apex
