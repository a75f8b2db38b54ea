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

// Adds to a square of kPanel by kPanel sums the products of two panels of rows: of every row in
// turn, left[i] * right[j] to sums[kPanel * i + j]. A panel is kPanel columns, row by row.
using AddProducts = void (*)(const float * left, const float * right, int64_t rows, float * sums);
constexpr int kPanel = 32;

constexpr int kTypes = 64;  // more than ggml_type has numbers

struct KernelTable {
    const char * isa = "";  // what the compiler was told, not what was asked for
    // By ggml_type, and whether there is an importance; null where ggml's own function is used.
    // Other ways of rounding than the reference's would be a third index.
    QuantizeRows quantize[kTypes][2] = {};
    bool (*all_finite)(const float * values, int64_t count) = nullptr;
    ConvertRow from_f16 = nullptr;
    ConvertRow from_bf16 = nullptr;
    AddProducts add_products = nullptr;
};

}  // namespace apex
