// Sums of squares: of the rows of weights, for the formats of 32 weights, and of the activations
// that go into a matrix, for importance matrices. Every sum has its terms in the order of the
// reference: a thread has a sum for itself.
#include "cuda/weights.h"

namespace apex::cuda {

namespace {

// Rows side by side; a row's weights come by way of shared memory, some columns at a time.
constexpr int kColumnsAtATime = 64;

struct RowShared {
    float tile[kRowsPerThreadBlock][kColumnsAtATime + 1];
    float sum[kRowsPerThreadBlock];
};

__global__ void __launch_bounds__(kThreads) rows(RowArguments arguments) {
    const ThreadBlock threads;
    auto & shared = threads.shared<RowShared>();
    const uint32_t first = threads.index() * kRowsPerThreadBlock;
    const uint32_t left = arguments.rows - first;
    const int count = left < kRowsPerThreadBlock ? static_cast<int>(left) : kRowsPerThreadBlock;
    threads.each(count, [&](int row) { shared.sum[row] = 0.f; });
    for (uint32_t column = 0; column < arguments.columns; column += kColumnsAtATime) {
        const uint32_t rest = arguments.columns - column;
        const int columns = rest < kColumnsAtATime ? static_cast<int>(rest) : kColumnsAtATime;
        threads.each(count * (columns / 8), [&](int item) {
            const int row = item / (columns / 8);
            const int at = item % (columns / 8) * 8;
            float values[8];
            load_eight(arguments.source, arguments.source_type,
                       (static_cast<int64_t>(first) + row) * arguments.columns + column + at,
                       values);
            for (int i = 0; i < 8; ++i) {
                shared.tile[row][at + i] = values[i];
            }
        });
        threads.each(count, [&](int row) {
            float sum = shared.sum[row];
            for (int i = 0; i < columns; ++i) {
                sum += shared.tile[row][i] * shared.tile[row][i];
            }
            shared.sum[row] = sum;
        });
    }
    threads.each(count, [&](int row) {
        arguments.mean_squares[first + static_cast<uint32_t>(row)] =
            shared.sum[row] / static_cast<float>(arguments.columns);
    });
}

__device__ float activation(const SquaresArguments & a, int64_t i, int64_t j, int64_t k,
                            int64_t column) {
    const char * row = a.activations + i * a.strides[0] + j * a.strides[1] + k * a.strides[2];
    return reinterpret_cast<const float *>(row)[column];
}

// A thread has a column of a matrix, a thread block kThreads columns of one matrix. With ids,
// extents are (experts used or 1, tokens), and a row belongs to the expert that its id names; all
// matrices look through all ids. Without, extents are (rows, …), and the matrices take turns.
__global__ void __launch_bounds__(kThreads) squares(SquaresArguments a) {
    const ThreadBlock threads;
    const int64_t tiles = (a.columns + kThreads - 1) / kThreads;
    const int64_t matrix = threads.index() / tiles;
    const int64_t first = threads.index() % tiles * kThreads;
    const int64_t left = a.columns - first;
    threads.each(left < kThreads ? static_cast<int>(left) : kThreads, [&](int item) {
        const int64_t column = first + item;
        float sum = a.sums[matrix * a.columns + column];
        unsigned long long count = 0;
        if (a.ids != nullptr) {
            for (int64_t used = 0; used < a.used; ++used) {
                for (int64_t token = 0; token < a.tokens; ++token) {
                    const auto * id = reinterpret_cast<const int32_t *>(
                        a.ids + used * a.id_strides[0] + token * a.id_strides[1]);
                    if (*id == matrix) {
                        const float x = activation(a, used % a.extents[0], token, 0, column);
                        sum += x * x;
                        ++count;
                    }
                }
            }
        } else {
            const int64_t outer = matrix / a.matrices[0];
            const int64_t inner = matrix % a.matrices[0];
            for (int64_t k = outer; k < a.extents[2]; k += a.matrices[1]) {
                for (int64_t j = inner; j < a.extents[1]; j += a.matrices[0]) {
                    for (int64_t i = 0; i < a.extents[0]; ++i) {
                        const float x = activation(a, i, j, k, column);
                        sum += x * x;
                        ++count;
                    }
                }
            }
        }
        a.sums[matrix * a.columns + column] = sum;
        if (column == 0) {
            a.counts[matrix] += count;
        }
    });
}

}  // namespace

void (*row_kernel())(RowArguments) {
    return rows;
}

size_t row_shared_bytes() {
    return sizeof(RowShared);
}

void (*squares_kernel())(SquaresArguments) {
    return squares;
}

}  // namespace apex::cuda
