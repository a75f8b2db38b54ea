// From W rows in memory to lanes and back.
#pragma once

#include "lane/lanes.h"

namespace apex {
namespace {

// Transposes W vectors of W elements in place: log2(W) times, vectors i and i + W/2 are zipped.
template <int W, typename V>
inline void transpose(V * v) {
    if constexpr (W > 1) {
        constexpr int half = W / 2;
        for (int width = 1; width < W; width *= 2) {
            V zipped[W];
            for (int i = 0; i < half; ++i) {
                const V a = v[i];
                const V b = v[i + half];
                if constexpr (W == 4) {
                    zipped[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
                    zipped[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
                } else if constexpr (W == 8) {
                    zipped[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
                    zipped[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
                } else {
                    zipped[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                                            5, 21, 6, 22, 7, 23);
                    zipped[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27,
                                                                12, 28, 13, 29, 14, 30, 15, 31);
                }
            }
            for (int i = 0; i < W; ++i) {
                v[i] = zipped[i];
            }
        }
    }
}

// lanes[i] holds element i of every row. `count` is a multiple of W.
template <int W>
inline void load_rows(const float * const * rows, int count, typename Vector<W>::F * lanes) {
    using F = typename Vector<W>::F;
    for (int i = 0; i < count; i += W) {
        F tile[W];
        for (int row = 0; row < W; ++row) {
            std::memcpy(&tile[row], rows[row] + i, sizeof(F));
        }
        transpose<W>(tile);
        for (int k = 0; k < W; ++k) {
            lanes[i + k] = tile[k];
        }
    }
}

// The reverse, to a matrix of W rows and `count` columns, a multiple of W.
template <int W, typename V, typename T>
inline void store_rows(const V * lanes, int count, T * matrix) {
    for (int i = 0; i < count; i += W) {
        V tile[W];
        for (int k = 0; k < W; ++k) {
            tile[k] = lanes[i + k];
        }
        transpose<W>(tile);
        for (int row = 0; row < W; ++row) {
            std::memcpy(matrix + row * count + i, &tile[row], sizeof(V));
        }
    }
}

}  // namespace
}  // namespace apex
