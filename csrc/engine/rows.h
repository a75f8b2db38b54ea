// Quantizing, dequantizing, checking and comparing the rows of one tensor, on several threads.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace apex::engine {

// A matrix per expert; a plain matrix is one expert. Rows are contiguous, experts outermost.
struct Shape {
    int64_t experts;
    int64_t rows;  // per expert
    int64_t columns;

    int64_t all_rows() const { return experts * rows; }
};

// A weight is NaN or infinite, or a quantized block is damaged.
struct BadData : public std::runtime_error {
    BadData(const std::string & what, int64_t bad_row) : std::runtime_error(what), row(bad_row) {}
    int64_t row;  // counted over all experts; the first of the rows that may hold it
};

// Quantizes rows of any readable type. `importance` is null, or holds `columns` weights per expert.
// The bytes equal those of ggml_quantize_chunk; every block is validated. Throws BadData, and
// std::invalid_argument if the type cannot be written or needs an importance.
void quantize_rows(const void * source, ggml_type source_type, const Shape & shape, ggml_type type,
                   const float * importance, void * target, int threads);

// One call of ggml_quantize_chunk per expert, on this thread and without any check: the reference
// that quantize_rows is compared with. The source is F32.
void quantize_rows_with_ggml(const float * source, const Shape & shape, ggml_type type,
                             const float * importance, void * target);

// The kernel of an instruction set, on this thread and without any check, expert by expert. The
// source is F32. Throws std::invalid_argument if there is no such kernel.
void quantize_rows_with_kernel(const float * source, const Shape & shape, ggml_type type,
                               const float * importance, void * target, const std::string & isa);

// Throws std::invalid_argument if the type cannot be read. Values are not checked.
void dequantize_rows(const void * source, ggml_type source_type, const Shape & shape,
                     float * target, int threads);

// Throws BadData at the first row that holds NaN, infinity or a damaged block. Types that ggml
// cannot read (integers) always pass.
void check_rows(const void * data, ggml_type type, const Shape & shape, int threads);

// Sums over the differences between two tensors of the same shape, in double precision.
struct Comparison {
    double error = 0;           // sum of (a - b)^2
    double reference = 0;       // sum of b^2
    double weighted_error = 0;  // the same, times the column's importance
    double weighted_reference = 0;
    double worst_error = 0;  // the largest such sum of one block of 256 weights or less
    int64_t worst_row = 0;   // where that block is
    int64_t worst_column = 0;
    int64_t bad_values = 0;  // NaN or infinite in a; left out of all sums
};

// How far `quantized` is from `reference`. Sums are added in the order of the rows, whatever the
// number of threads.
Comparison compare_rows(const void * quantized, ggml_type quantized_type, const void * reference,
                        ggml_type reference_type, const Shape & shape, const float * importance,
                        int threads);

}  // namespace apex::engine
