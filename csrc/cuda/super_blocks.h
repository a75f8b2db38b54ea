// What the formats with a codebook have in common: whole super-blocks in shared memory, codebooks
// in device memory.
#pragma once

#include <stdexcept>

#include "cuda/weights.h"
#include "formats/super_blocks.h"
#include "tables/codebooks.h"

namespace apex {
namespace {

// Floats of one thread that lie between those of the others: side by side, they meet no bank twice.
template <int stride>
struct Strided {
    float * base;
    APEX_HOST_DEVICE float & operator[](int i) { return base[i * stride]; }
    APEX_HOST_DEVICE const float & operator[](int i) const { return base[i * stride]; }
};

// A codebook in the device's memory.
__device__ inline Grid codebook(const ThreadBlock & threads, const void * tables) {
    const Grid grid = *static_cast<const Grid *>(tables);
    threads.assume_global(grid.points);
    threads.assume_global(grid.neighbours);
    threads.assume_global(grid.index);
    return grid;
}

// The weights of the range to shared.x, and shared.sigma2 of every super-block.
template <typename Format, bool weighted, typename Range, typename Shared>
__device__ void load_super_blocks(const ThreadBlock & threads, const Range & range,
                                  Shared & shared) {
    range.load(threads, [&](int i, const float * values) {
        APEX_UNROLL
        for (int k = 0; k < 8; ++k) {
            shared.x[i / kSuper][i % kSuper + k] = values[k];
        }
    });
    threads.each(range.count, [&](int b) {
        shared.sigma2[b] =
            Format::template sigma2<L1, weighted>(static_cast<const float *>(shared.x[b]));
    });
}

template <typename Tables>
std::vector<unsigned char> grid_tables(cuda::TableMemory & memory) {
    Grid grid = Tables::get();
    for (uint32_t i = 0; i < grid.point_count; ++i) {
        const uint32_t entry = grid.points[i];
        if ((entry & Grid::kOffGrid) != 0 && 8 * Grid::eights(entry) >= Tables::longest + 8) {
            throw std::logic_error("a codebook has longer lists than its kernel has room for");
        }
    }
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
