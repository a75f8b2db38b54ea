#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "dispatch/dispatch.h"
#include "fp_environment.h"
#include "guard/guard.h"
#include "parallel.h"
#include "types.h"

namespace apex::engine {

namespace {

// Rows are handed out in pieces of about this many weights: 64 KiB as F32, which stays in cache
// between conversion and quantization.
constexpr int64_t kPieceWeights = 16 * 1024;
constexpr int64_t kComparedBlock = 256;

// A run of rows that lie in one expert.
struct Piece {
    int64_t row;  // counted over all experts
    int64_t rows;
    int64_t expert;
};

// Cuts each expert's rows into equal pieces; the last of an expert may be shorter.
class Pieces {
  public:
    explicit Pieces(const Shape & shape)
        : shape_(shape),
          rows_(std::clamp<int64_t>(kPieceWeights / std::max<int64_t>(shape.columns, 1), 1,
                                    std::max<int64_t>(shape.rows, 1))),
          per_expert_((shape.rows + rows_ - 1) / rows_) {}

    int64_t count() const { return shape_.experts * per_expert_; }

    Piece operator[](int64_t index) const {
        const int64_t expert = index / per_expert_;
        const int64_t first = (index % per_expert_) * rows_;
        return {expert * shape_.rows + first, std::min(rows_, shape_.rows - first), expert};
    }

  private:
    Shape shape_;
    int64_t rows_;
    int64_t per_expert_;
};

const char * at_row(const void * data, ggml_type type, const Shape & shape, int64_t row) {
    return static_cast<const char *>(data) +
           static_cast<size_t>(row) * ggml_row_size(type, shape.columns);
}

// This thread's buffer number `buffer`, of at least so many weights.
float * scratch(int64_t weights, int buffer) {
    thread_local std::vector<float> buffers[2];
    std::vector<float> & result = buffers[buffer];
    if (static_cast<int64_t>(result.size()) < weights) {
        result.resize(static_cast<size_t>(weights));
    }
    return result.data();
}

// Rows as F32: the source itself, or a conversion in a buffer.
const float * as_f32(const void * source, ggml_type type, int64_t weights, int buffer) {
    if (type == GGML_TYPE_F32) {
        return static_cast<const float *>(source);
    }
    float * target = scratch(weights, buffer);
    ggml_get_type_traits(type)->to_float(source, target, weights);
    return target;
}

bool is_finite(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return (bits & 0x7f800000u) != 0x7f800000u;
}

// The same, with whether all of them are finite.
std::pair<const float *, bool> as_checked_f32(const void * source, ggml_type type,
                                              int64_t weights) {
    const KernelTable & kernels = dispatch::kernels();
    switch (type) {
        case GGML_TYPE_F16: {
            float * target = scratch(weights, 0);
            return {target, kernels.from_f16(source, weights, target)};
        }
        case GGML_TYPE_BF16: {
            float * target = scratch(weights, 0);
            return {target, kernels.from_bf16(source, weights, target)};
        }
        default: {
            const float * values = as_f32(source, type, weights, 0);
            return {values, kernels.all_finite(values, weights)};
        }
    }
}

[[noreturn]] void throw_bad_weight(const float * values, const Piece & piece, const Shape & shape) {
    int64_t i = 0;
    while (is_finite(values[i])) {
        ++i;
    }
    throw BadData(std::string("a weight is ") + (std::isnan(values[i]) ? "NaN" : "infinite"),
                  piece.row + i / shape.columns);
}

QuantizeRows kernel_for(const KernelTable & kernels, ggml_type type, const float * importance) {
    return importance != nullptr ? kernels.weighted[type] : kernels.plain[type];
}

void require_readable(ggml_type type) {
    if (!facts_of(type).has_dequantizer) {
        throw std::invalid_argument("weights of type " + facts_of(type).name + " cannot be read");
    }
}

}  // namespace

void quantize_rows(const void * source, ggml_type source_type, const Shape & shape, ggml_type type,
                   const float * importance, void * target, int threads) {
    require_readable(source_type);
    const TypeFacts & facts = facts_of(type);
    if (!facts.has_quantizer) {
        throw std::invalid_argument("type " + facts.name + " cannot be written");
    }
    if (facts.needs_importance && importance == nullptr) {
        throw std::invalid_argument("type " + facts.name + " needs an importance");
    }
    const QuantizeRows kernel = kernel_for(dispatch::kernels(), type, importance);
    if (kernel == nullptr) {
        ggml_quantize_init(type);  // here, so that the threads do not queue for the tables
    }
    const Pieces pieces(shape);
    parallel_for(pieces.count(), threads, [&](int64_t index) {
        guard::Scope scope;
        const Piece piece = pieces[index];
        const int64_t weights = piece.rows * shape.columns;
        const auto [values, finite] =
            as_checked_f32(at_row(source, source_type, shape, piece.row), source_type, weights);
        if (!finite) {
            throw_bad_weight(values, piece, shape);
        }
        const float * row_importance =
            importance == nullptr ? nullptr : importance + piece.expert * shape.columns;
        char * output = const_cast<char *>(at_row(target, type, shape, piece.row));
        const auto bytes = static_cast<size_t>(piece.rows) * ggml_row_size(type, shape.columns);
        bool too_large = false;
        if (kernel != nullptr) {
            kernel({values, row_importance, piece.rows, shape.columns,
                    reinterpret_cast<uint8_t *>(output), &too_large});
        } else {
            ggml_quantize_chunk(type, values, output, 0, piece.rows, shape.columns, row_importance);
        }
        if (too_large || !ggml_validate_row_data(type, output, bytes)) {
            throw BadData("a weight is too large for " + facts.name, piece.row);
        }
    });
}

void quantize_rows_with_ggml(const float * source, const Shape & shape, ggml_type type,
                             const float * importance, void * target) {
    guard::Scope scope;
    FpEnvironment exact;
    const size_t expert_bytes =
        static_cast<size_t>(shape.rows) * ggml_row_size(type, shape.columns);
    for (int64_t expert = 0; expert < shape.experts; ++expert) {
        ggml_quantize_chunk(
            type, source + expert * shape.rows * shape.columns,
            static_cast<char *>(target) + static_cast<size_t>(expert) * expert_bytes, 0, shape.rows,
            shape.columns, importance == nullptr ? nullptr : importance + expert * shape.columns);
    }
}

void quantize_rows_with_kernel(const float * source, const Shape & shape, ggml_type type,
                               const float * importance, void * target, const std::string & isa) {
    const QuantizeRows kernel = kernel_for(dispatch::kernels(isa), type, importance);
    if (kernel == nullptr) {
        throw std::invalid_argument("there is no kernel for " + facts_of(type).name);
    }
    FpEnvironment exact;
    const size_t expert_bytes =
        static_cast<size_t>(shape.rows) * ggml_row_size(type, shape.columns);
    bool too_large = false;
    for (int64_t expert = 0; expert < shape.experts; ++expert) {
        kernel({source + expert * shape.rows * shape.columns,
                importance == nullptr ? nullptr : importance + expert * shape.columns, shape.rows,
                shape.columns,
                static_cast<uint8_t *>(target) + static_cast<size_t>(expert) * expert_bytes,
                &too_large});
    }
}

void dequantize_rows(const void * source, ggml_type source_type, const Shape & shape,
                     float * target, int threads) {
    require_readable(source_type);
    const Pieces pieces(shape);
    parallel_for(pieces.count(), threads, [&](int64_t index) {
        guard::Scope scope;
        const Piece piece = pieces[index];
        const int64_t weights = piece.rows * shape.columns;
        const char * input = at_row(source, source_type, shape, piece.row);
        float * output = target + piece.row * shape.columns;
        if (source_type == GGML_TYPE_F32) {
            std::memcpy(output, input, static_cast<size_t>(weights) * sizeof(float));
        } else {
            ggml_get_type_traits(source_type)->to_float(input, output, weights);
        }
    });
}

void check_rows(const void * data, ggml_type type, const Shape & shape, int threads) {
    const TypeFacts & facts = facts_of(type);
    if (!facts.has_dequantizer) {
        return;
    }
    const Pieces pieces(shape);
    parallel_for(pieces.count(), threads, [&](int64_t index) {
        guard::Scope scope;
        const Piece piece = pieces[index];
        const char * rows = at_row(data, type, shape, piece.row);
        if (facts.is_quantized) {
            const auto bytes = static_cast<size_t>(piece.rows) * ggml_row_size(type, shape.columns);
            if (!ggml_validate_row_data(type, rows, bytes)) {
                throw BadData("a block of type " + facts.name + " is damaged", piece.row);
            }
            return;
        }
        const int64_t weights = piece.rows * shape.columns;
        const auto [values, finite] = as_checked_f32(rows, type, weights);
        if (!finite) {
            throw_bad_weight(values, piece, shape);
        }
    });
}

Comparison compare_rows(const void * quantized, ggml_type quantized_type, const void * reference,
                        ggml_type reference_type, const Shape & shape, const float * importance,
                        int threads) {
    require_readable(quantized_type);
    require_readable(reference_type);
    const Pieces pieces(shape);
    std::vector<Comparison> parts(static_cast<size_t>(pieces.count()));
    parallel_for(pieces.count(), threads, [&](int64_t index) {
        guard::Scope scope;
        const Piece piece = pieces[index];
        const int64_t weights = piece.rows * shape.columns;
        const float * a =
            as_f32(at_row(quantized, quantized_type, shape, piece.row), quantized_type, weights, 0);
        const float * b =
            as_f32(at_row(reference, reference_type, shape, piece.row), reference_type, weights, 1);
        const float * weight =
            importance == nullptr ? nullptr : importance + piece.expert * shape.columns;
        Comparison & part = parts[static_cast<size_t>(index)];
        for (int64_t row = 0; row < piece.rows; ++row) {
            for (int64_t first = 0; first < shape.columns; first += kComparedBlock) {
                const int64_t end = std::min(first + kComparedBlock, shape.columns);
                double block_error = 0;
                for (int64_t column = first; column < end; ++column) {
                    const int64_t i = row * shape.columns + column;
                    if (!is_finite(a[i])) {
                        ++part.bad_values;
                        continue;
                    }
                    const double difference = static_cast<double>(a[i]) - b[i];
                    const double error = difference * difference;
                    const double square = static_cast<double>(b[i]) * b[i];
                    block_error += error;
                    part.reference += square;
                    if (weight != nullptr) {
                        part.weighted_error += weight[column] * error;
                        part.weighted_reference += weight[column] * square;
                    }
                }
                part.error += block_error;
                if (block_error > part.worst_error) {
                    part.worst_error = block_error;
                    part.worst_row = piece.row + row;
                    part.worst_column = first;
                }
            }
        }
    });
    Comparison total;
    for (const Comparison & part : parts) {
        total.error += part.error;
        total.reference += part.reference;
        total.weighted_error += part.weighted_error;
        total.weighted_reference += part.weighted_reference;
        total.bad_values += part.bad_values;
        if (part.worst_error > total.worst_error) {
            total.worst_error = part.worst_error;
            total.worst_row = part.worst_row;
            total.worst_column = part.worst_column;
        }
    }
    return total;
}

}  // namespace apex::engine
