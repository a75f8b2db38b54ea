// The factors of an objective: H = U D U^T with U unit upper triangular, so that
// tr(E H E^T) = sum over j of D_j * |e_j + sum over k < j of e_k U_kj|^2.
#pragma once

#include <cstdint>

#include "compensation/product.h"

namespace apex {
namespace {

constexpr int64_t kFactorPanel = 64;

// row[i] -= factor * other[i], i < count
inline void subtract_row(float factor, const float * other, int64_t count, float * row) {
    for (int64_t i = 0; i < count; ++i) {
        row[i] -= factor * other[i];
    }
}

// Takes the columns of a panel, whose pivots are known, out of row k of what is left.
template <typename L>
inline void subtract_panel(const float * matrix, int64_t size, const float * pivots, int64_t first,
                           int64_t last, int64_t k, float * row) {
    using F = typename L::F;
    constexpr int vectors = 4;
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

// From the lower triangle of H in `matrix` (row by row, `size` values each) to U: row j becomes
// U_kj for k < j. Returns whether all pivots are positive.
template <typename L>
bool factorize(float * matrix, int64_t size, float * pivots) {
    bool is_positive = true;
    for (int64_t last = size; last > 0; last -= kFactorPanel) {
        const int64_t first = last > kFactorPanel ? last - kFactorPanel : 0;
        for (int64_t j = last - 1; j >= first; --j) {
            float * row = matrix + j * size;
            pivots[j] = row[j];
            is_positive &= pivots[j] > 0.f && pivots[j] < 3e38f;
            const float inverse = 1.f / pivots[j];
            for (int64_t k = 0; k < j; ++k) {
                row[k] *= inverse;
            }
            for (int64_t k = first; k < j; ++k) {
                subtract_row(row[k] * pivots[j], row, k + 1, matrix + k * size);
            }
        }
        for (int64_t k = 0; k < first; ++k) {
            subtract_panel<L>(matrix, size, pivots, first, last, k, matrix + k * size);
        }
        if (first == 0) {
            break;
        }
    }
    return is_positive;
}

}  // namespace
}  // namespace apex
