// The factors of an objective: H = U D U^T with U unit upper triangular, so that
// tr(E H E^T) = sum over j of D_j * |e_j + sum over k < j of e_k U_kj|^2. They are made in the
// place of H's lower triangle, panel by panel from the last column on; between panels, what is left
// can be shared among threads by rows.
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

// Takes the columns of a panel out of `count` rows of what is left from row k on, k + count <=
// first. What lies right of the diagonal is of no meaning before and after.
template <typename L, int rows>
inline void subtract_from_rows(float * matrix, int64_t size, int64_t first, int64_t last,
                               const float * pivots, int64_t k) {
    using F = typename L::F;
    float factor[kFactorPanel][rows];
    for (int64_t j = first; j < last; ++j) {
        for (int r = 0; r < rows; ++r) {
            factor[j - first][r] = matrix[j * size + k + r] * pivots[j];
        }
    }
    const int64_t end = k + rows;
    int64_t i = 0;
    for (; i + 2 * L::width <= end; i += 2 * L::width) {
        F sum[rows][2];
        for (int r = 0; r < rows; ++r) {
            sum[r][0] = load<F>(matrix + (k + r) * size + i);
            sum[r][1] = load<F>(matrix + (k + r) * size + i + L::width);
        }
        for (int64_t j = last - 1; j >= first; --j) {
            const F x0 = load<F>(matrix + j * size + i);
            const F x1 = load<F>(matrix + j * size + i + L::width);
            for (int r = 0; r < rows; ++r) {
                sum[r][0] -= x0 * factor[j - first][r];
                sum[r][1] -= x1 * factor[j - first][r];
            }
        }
        for (int r = 0; r < rows; ++r) {
            store(sum[r][0], matrix + (k + r) * size + i);
            store(sum[r][1], matrix + (k + r) * size + i + L::width);
        }
    }
    for (; i < end; ++i) {
        for (int r = 0; r < rows; ++r) {
            for (int64_t j = last - 1; j >= first; --j) {
                matrix[(k + r) * size + i] -= matrix[j * size + i] * factor[j - first][r];
            }
        }
    }
}

template <typename L>
void subtract_panel(float * matrix, int64_t size, int64_t first, int64_t last, const float * pivots,
                    int64_t k, int64_t count) {
    int64_t done = 0;
    for (; done + 4 <= count; done += 4) {
        subtract_from_rows<L, 4>(matrix, size, first, last, pivots, k + done);
    }
    for (; done < count; ++done) {
        subtract_from_rows<L, 1>(matrix, size, first, last, pivots, k + done);
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
