// Groups of weights onto the points of a codebook: IQ1, IQ2 and IQ3.
#pragma once

#include "lane/lanes.h"
#include "searches/nearest.h"
#include "tables/codebooks.h"

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
    static constexpr int top = 2 * levels - 1;  // what the highest level stands for in IQ2 and IQ3

    APEX_HOST_DEVICE static I level(I code, int i) {
        return code >> (bits * i) & ((1 << bits) - 1);
    }

    // ggml: nearest_int(0.5f * (inverse * x - 1)), within the levels.
    APEX_HOST_DEVICE static void round(const F * x, F inverse, F * level) {
        APEX_UNROLL
        for (int i = 0; i < coordinates; ++i) {
            level[i] =
                L::nearest(0.5f * (inverse * x[i] - 1.f), 0.f, static_cast<float>(levels - 1));
        }
    }

    // A group's weights lane by lane: for the search among neighbours, which takes one at a time.
    struct ByLane {
        const float * x;
        const float * weight;
        int stride;            // from one lane to the next
        const float * values;  // what the levels stand for, 4 or 8 per lane
    };

    // The number of a point of the lattice.
    APEX_HOST_DEVICE static I number(const F * level) {
        F sum = level[coordinates - 1];
        APEX_UNROLL
        for (int i = coordinates - 2; i >= 0; --i) {
            sum = sum * static_cast<float>(levels) + level[i];
        }
        return to_int(sum);
    }

    // The code of the grid point for the given levels: the point itself where it is on the grid,
    // otherwise the neighbour at the least sum of weight * (scale * value - x)^2. `on_grid` is all
    // ones or zero per lane. `far` is set in the lanes where all distances overflow, which the
    // reference does not survive.
    static I snap(const Grid & grid, const F * level, const ByLane & lanes, F scale, I * on_grid,
                  int32_t * far) {
        alignas(64) int32_t codes[L::width];
        alignas(64) float scales[L::width];
        const I whole = number(level);
        std::memcpy(codes, &whole, sizeof(codes));
        std::memcpy(scales, &scale, sizeof(scales));
        int32_t off = 0;
        for (int lane = 0; lane < L::width; ++lane) {
            codes[lane] = static_cast<int32_t>(grid.points[codes[lane]]);
            off |= codes[lane];
        }
        I result;
        std::memcpy(&result, codes, sizeof(result));
        *on_grid = ~(result >> 31);
        if (off >= 0) {
            return result;
        }
        for (int lane = 0; lane < L::width; ++lane) {
            if (codes[lane] >= 0) {
                continue;
            }
            const auto entry = static_cast<uint32_t>(codes[lane]);
            const uint16_t * list = grid.neighbours + Grid::list(entry);
            const int found = NearestCode<L::width, coordinates, bits>::find(
                {lanes.x + lane * lanes.stride, lanes.weight + lane * lanes.stride, scales[lane],
                 lanes.values + (lane << bits)},
                list, Grid::eights(entry));
            far[lane] |= found < 0;
            codes[lane] = list[found < 0 ? 0 : found];
        }
        std::memcpy(&result, codes, sizeof(result));
        return result;
    }

    // The index of each grid point in the format.
    APEX_HOST_DEVICE static I index(const Grid & grid, I code) {
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
