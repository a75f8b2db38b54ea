// What the kernels are given, and how the host finds them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace apex::cuda {

enum class Source { f32, f16, bf16 };

// What a kernel found on the way; the host then lets the processor decide.
struct Flags {
    int not_finite;  // a weight is NaN or infinite
    int too_large;   // a weight is too large for the format
};

// Rows to quantize. All pointers are the device's.
struct QuantizeArguments {
    const void * source;
    Source source_type;
    const float * importance;        // per expert, one value per column
    const float * row_mean_squares;  // for the formats that ask for them
    const void * tables;
    uint8_t * target;
    uint32_t blocks;  // in all rows
    uint32_t blocks_per_row;
    uint32_t rows_per_expert;
    Flags * flags;
};

struct RowArguments {
    const void * source;
    Source source_type;
    float * mean_squares;
    uint32_t rows;
    uint32_t columns;
};

struct DequantizeArguments {
    const uint8_t * source;
    float * target;
    uint32_t eights;  // groups of eight weights
};

// Activations of one matrix product, and the sums that they are added to.
struct SquaresArguments {
    const char * activations;  // float32, the columns of a row side by side
    int64_t extents[3];        // of the rows, from the innermost; see squares.cu
    int64_t strides[3];        // in bytes
    const char * ids;          // int32, the expert of each (used, token); or null
    int64_t used, tokens;
    int64_t id_strides[2];
    int64_t matrices[2];  // how many, in two dimensions
    int64_t columns;
    float * sums;                 // per matrix, one per column
    unsigned long long * counts;  // of rows, per matrix
};

// Copies what a format looks up to the device, once; returns the bytes of its table as they have to
// lie there.
class TableMemory {
  public:
    virtual ~TableMemory() = default;
    virtual const void * copy(const void * data, size_t bytes) = 0;
};
using MakeTables = std::vector<unsigned char> (*)(TableMemory & memory);

// One compiled kernel, and what a launch of it needs.
struct QuantizeKernel {
    int type;  // a ggml_type
    bool weighted;
    void (*function)(QuantizeArguments);
    MakeTables tables;
    int threads;
    int blocks;  // of the format, per thread block
    size_t shared_bytes;
    int weights, bytes;  // per block of the format
    bool by_row;
};

struct DequantizeKernel {
    int type;
    void (*function)(DequantizeArguments);
    int weights, bytes;
};

// The kernels of one family each; every family is compiled by itself.
std::vector<QuantizeKernel> small_kernels();
std::vector<QuantizeKernel> q2_q3_kernels();
std::vector<QuantizeKernel> q4_q5_kernels();
std::vector<QuantizeKernel> q6_kernels();
std::vector<QuantizeKernel> iq4_kernels();
std::vector<QuantizeKernel> iq3_kernels();
std::vector<QuantizeKernel> iq2_kernels();
std::vector<QuantizeKernel> iq1_kernels();
std::vector<DequantizeKernel> dequantize_kernels();
void (*row_kernel())(RowArguments);
void (*squares_kernel())(SquaresArguments);

size_t row_shared_bytes();

constexpr size_t kSharedBytes =
    48 * 1024;  // what every GPU gives to a thread block without being asked
constexpr int kRowsPerThreadBlock = 32;  // of row_kernel
constexpr int kThreads = 128;            // of the kernels that do not say otherwise

}  // namespace apex::cuda
