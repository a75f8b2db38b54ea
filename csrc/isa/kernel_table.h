// What a compiled instruction set offers: one function per tensor type, and a few others.
#pragma once

#include <cstdint>

namespace apex {

// F32 rows to quantize, one after the other, and where their blocks go.
struct Rows {
    const float * values;
    const float * importance;  // `columns` values for every row, or null
    int64_t rows;
    int64_t columns;  // a multiple of the type's block
    uint8_t * target;
    bool * too_large;  // set where weights are so large that the reference's distances overflow
};

using QuantizeRows = void (*)(const Rows &);

// Converts to F32; returns whether all values are finite.
using ConvertRow = bool (*)(const void * source, int64_t count, float * target);

// Rows that were quantized and are to be improved under an objective: the sum over rows of e H e^T,
// e being the error of a row. H = U D U^T with U unit upper triangular.
struct Compensation {
    const float * values;  // rows of `columns` weights
    int64_t rows;
    int64_t columns;
    uint8_t * target;       // their blocks, as the reference made them
    const float * moments;  // H, whole
    const float * factors;  // row j: U_kj for k < j
    const float * pivots;   // D
    float * scratch;        // kCompensationScratch floats per column, on a boundary of 64 bytes
    int sweeps;
};

constexpr int64_t kCompensationScratch = 256;

using CompensateRows = void (*)(const Compensation &);

// The two steps by which the factors take the place of H, see compensation/factorize.h.
using FactorPanel = void (*)(float * matrix, int64_t size, int64_t first, int64_t last,
                             float * pivots);
using SubtractPanel = void (*)(float * matrix, int64_t size, int64_t first, int64_t last,
                               const float * pivots, int64_t row, int64_t rows);
constexpr int64_t kFactorPanel = 64;  // columns

// Adds to a square of kPanel by kPanel sums the products of two panels of rows: of every row in
// turn, left[i] * right[j] to sums[kPanel * i + j]. A panel is kPanel columns, row by row.
using AddProducts = void (*)(const float * left, const float * right, int64_t rows, float * sums);
constexpr int kPanel = 32;

constexpr int kTypes = 64;  // more than ggml_type has numbers

struct KernelTable {
    const char * isa = "";  // what the compiler was told, not what was asked for
    // By ggml_type, and whether there is an importance; null where ggml's own function is used.
    QuantizeRows quantize[kTypes][2] = {};
    CompensateRows compensate[kTypes] = {};
    FactorPanel factor_panel = nullptr;
    SubtractPanel subtract_panel = nullptr;
    bool (*all_finite)(const float * values, int64_t count) = nullptr;
    ConvertRow from_f16 = nullptr;
    ConvertRow from_bf16 = nullptr;
    AddProducts add_products = nullptr;
};

}  // namespace apex
