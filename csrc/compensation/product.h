// Products of a tile's rows with a matrix: where compensated rounding spends its time. Every sum is
// in the order of its index, one product and one addition at a time.
#pragma once

#include <cstdint>

#include "lane/lanes.h"

namespace apex {
namespace {

// A tile is two vectors of rows; its arrays hold `kTile<L>` floats, one per row, for every column.
template <typename L>
constexpr int kTile = 2 * L::width;

template <typename V>
inline V load(const float * from) {
    V result;
    std::memcpy(&result, from, sizeof(V));
    return result;
}

template <typename V>
inline void store(V value, float * to) {
    std::memcpy(to, &value, sizeof(V));
}

// sums[j] += sum over k in begin .. end - 1 of x[k] * matrix[j * stride + k], for j < count, which
// is a multiple of four.
template <typename L>
inline void accumulate(const float * x, int64_t begin, int64_t end, const float * matrix,
                       int64_t stride, int count, float * sums) {
    using F = typename L::F;
    constexpr int tile = kTile<L>;
    for (int j = 0; j < count; j += 4) {
        F sum[4][2];
        const float * row[4];
        for (int c = 0; c < 4; ++c) {
            row[c] = matrix + (j + c) * stride;
            sum[c][0] = load<F>(sums + (j + c) * tile);
            sum[c][1] = load<F>(sums + (j + c) * tile + L::width);
        }
        for (int64_t k = begin; k < end; ++k) {
            const F x0 = load<F>(x + k * tile);
            const F x1 = load<F>(x + k * tile + L::width);
            APEX_UNROLL
            for (int c = 0; c < 4; ++c) {
                sum[c][0] += x0 * row[c][k];
                sum[c][1] += x1 * row[c][k];
            }
        }
        for (int c = 0; c < 4; ++c) {
            store(sum[c][0], sums + (j + c) * tile);
            store(sum[c][1], sums + (j + c) * tile + L::width);
        }
    }
}

}  // namespace
}  // namespace apex
