// The factors of an objective: H = U D U^T with U unit upper triangular, so that
// tr(E H E^T) = sum over j of D_j * |e_j + sum over k < j of e_k U_kj|^2. They are made in the place
// of H's lower triangle, panel by panel from the last column on; between panels, what is left can be
// shared among threads by rows.
#pragma once

#include <cstdint>

#include "compensation/product.h"
#include "isa/kernel_table.h"

namespace apex {
namespace {

// row[i] -= factor * other[i], i < count
inline void subtract_row(float factor, const float * other, int64_t count, float * row) {
    for (int64_t i = 0; i < count; ++i) {
        row[i] -= factor * other[i];
    }
}

// Takes the columns of a panel out of row k of what is left, k < first.
template <typename L>
void subtract_panel(float * matrix, int64_t size, int64_t first, int64_t last,
                    const float * pivots, int64_t k) {
    using F = typename L::F;
    constexpr int vectors = 4;
    float * row = matrix + k * size;
    float factor[kFactorPanel];
    for (int64_t j = first; j < last; ++j) {
        factor[j - first] = matrix[j * size + k] * pivots[j];
    }
    const int64_t count = k + 1;
    int64_t i = 0;
    for (; i + vectors * L::width <= count; i += vectors * L::width) {
        F sum[vectors];
        for (int v = 0; v < vectors; ++v) {
            sum[v] = load<F>(row + i + v * L::width);
        }
        for (int64_t j = last - 1; j >= first; --j) {
            APEX_UNROLL
            for (int v = 0; v < vectors; ++v) {
                sum[v] -= load<F>(matrix + j * size + i + v * L::width) * factor[j - first];
            }
        }
        for (int v = 0; v < vectors; ++v) {
            store(sum[v], row + i + v * L::width);
        }
    }
    for (; i < count; ++i) {
        for (int64_t j = last - 1; j >= first; --j) {
            row[i] -= matrix[j * size + i] * factor[j - first];
        }
    }
}

// Makes columns first .. last - 1 of U, of which row j holds U_kj for k < j, and their pivots.
inline void factor_panel(float * matrix, int64_t size, int64_t first, int64_t last,
                         float * pivots) {
    for (int64_t j = last - 1; j >= first; --j) {
        float * row = matrix + j * size;
        pivots[j] = row[j];
        const float inverse = 1.f / pivots[j];
        for (int64_t k = 0; k < j; ++k) {
            row[k] *= inverse;
        }
        for (int64_t k = first; k < j; ++k) {
            subtract_row(row[k] * pivots[j], row, k + 1, matrix + k * size);
        }
    }
}

}  // namespace
}  // namespace apex
