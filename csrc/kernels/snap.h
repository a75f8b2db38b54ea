// Groups of weights onto the points of a codebook: IQ1, IQ2 and IQ3.
#pragma once

#include "kernels/batch.h"
#include "kernels/grids.h"
#include "lane/nearest.h"

namespace apex {
namespace {

// A group has `coordinates` weights; a code holds a level of `bits` bits for each.
template <typename L, int coordinates_, int bits_>
struct Codebook {
    using F = typename L::F;
    using I = typename L::I;
    static constexpr int coordinates = coordinates_;
    static constexpr int bits = bits_;
    static constexpr int levels = bits == 2 ? 3 : 8;

    static I level(I code, int i) { return code >> (bits * i) & ((1 << bits) - 1); }

    // ggml: nearest_int(0.5f * (inverse * x - 1)), within the levels.
    static void round(const F * x, F inverse, F * level) {
        for (int i = 0; i < coordinates; ++i) {
            level[i] =
                L::nearest(0.5f * (inverse * x[i] - 1.f), 0.f, static_cast<float>(levels - 1));
        }
    }

    // The code of the grid point for the given levels: the point itself where it is on the grid,
    // otherwise the neighbour at the least sum of weight * (scale * value - x)^2, where `values`
    // are what the levels stand for. `on_grid` is all ones or zero per lane. `far` is set
    // in the lanes where all distances overflow, which the reference does not survive.
    static I snap(const Grid & grid, const F * level, const F * x, const F * weight, F scale,
                  const F * values, I * on_grid, int32_t * far) {
        F number = level[coordinates - 1];
        for (int i = coordinates - 2; i >= 0; --i) {
            number = number * static_cast<float>(levels) + level[i];
        }
        alignas(64) int32_t points[L::width];
        const I whole = to_int(number);
        std::memcpy(points, &whole, sizeof(points));
        bool some_off = false;
        alignas(64) int32_t codes[L::width];
        for (int lane = 0; lane < L::width; ++lane) {
            codes[lane] = static_cast<int32_t>(grid.points[points[lane]]);
            some_off |= codes[lane] < 0;
        }
        I result;
        std::memcpy(&result, codes, sizeof(result));
        *on_grid = ~(result >> 31);
        if (!some_off) {
            return result;
        }
        constexpr int count = coordinates << bits;
        I terms[count];
        for (int i = 0; i < coordinates; ++i) {
            for (int l = 0; l < levels; ++l) {
                const F difference = scale * values[l] - x[i];
                terms[(i << bits) + l] = L::bits(weight[i] * difference * difference);
            }
            for (int l = levels; l < 1 << bits; ++l) {
                terms[(i << bits) + l] = I{};
            }
        }
        alignas(64) int32_t matrix[L::width * count];
        store_rows<L::width>(terms, count, matrix);
        for (int lane = 0; lane < L::width; ++lane) {
            if (codes[lane] >= 0) {
                continue;
            }
            const auto entry = static_cast<uint32_t>(codes[lane]) & ~Grid::kOffGrid;
            const int units = static_cast<int>(entry >> Grid::kLengthShift);
            const uint16_t * list =
                grid.neighbours + (entry & ((1u << Grid::kLengthShift) - 1)) * Grid::kListUnit;
            const int found = NearestCode<L::width, coordinates, bits>::find(
                reinterpret_cast<const float *>(matrix + lane * count), list, units);
            far[lane] |= found < 0;
            codes[lane] = list[found < 0 ? 0 : found];
        }
        std::memcpy(&result, codes, sizeof(result));
        return result;
    }

    // The index of each grid point in the format.
    static I index(const Grid & grid, I code) {
        alignas(64) int32_t values[L::width];
        std::memcpy(values, &code, sizeof(values));
        for (int lane = 0; lane < L::width; ++lane) {
            values[lane] = grid.index[values[lane]];
        }
        I result;
        std::memcpy(&result, values, sizeof(result));
        return result;
    }
};

}  // namespace
}  // namespace apex
