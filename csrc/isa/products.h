// Sums of products of columns: the kernel of second moments.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa/kernel_table.h"
#include "lane/lanes.h"

namespace apex {
namespace {

// A tile of sums stays in registers while the rows go by: `down` columns of the left panel by
// `across` vectors of the right one. Every sum takes the rows in their order, one rounded product
// and one rounded addition each, so the width changes no bit.
template <typename L, int down, int across>
inline void add_tile(const float * left, const float * right, int64_t rows, float * sums) {
    using F = typename L::F;
    F sum[down][across];
    for (int i = 0; i < down; ++i) {
        for (int j = 0; j < across; ++j) {
            std::memcpy(&sum[i][j], sums + i * kPanel + j * L::width, sizeof(F));
        }
    }
    for (int64_t row = 0; row < rows; ++row, left += kPanel, right += kPanel) {
        F values[across];
        for (int j = 0; j < across; ++j) {
            std::memcpy(&values[j], right + j * L::width, sizeof(F));
        }
        for (int i = 0; i < down; ++i) {
            const F factor = L::all(left[i]);
            for (int j = 0; j < across; ++j) {
                sum[i][j] += factor * values[j];
            }
        }
    }
    for (int i = 0; i < down; ++i) {
        for (int j = 0; j < across; ++j) {
            std::memcpy(sums + i * kPanel + j * L::width, &sum[i][j], sizeof(F));
        }
    }
}

template <typename L>
void add_products(const float * left, const float * right, int64_t rows, float * sums) {
    constexpr int down = L::width >= 16 ? 8 : 4;  // as many as there are registers for
    constexpr int across = 2;
    for (int i = 0; i < kPanel; i += down) {
        for (int j = 0; j < kPanel; j += across * L::width) {
            add_tile<L, down, across>(left + i, right + j, rows, sums + i * kPanel + j);
        }
    }
}

}  // namespace
}  // namespace apex
