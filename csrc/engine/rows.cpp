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

// Rows are handed out in strips of about this many weights: 64 KiB as F32, which stays in cache
// between conversion and quantization.
constexpr int64_t kStripWeights = 16 * 1024;
constexpr int64_t kComparedBlock = 256;

// Some rows of one expert, which one thread takes.
struct Strip {
    int64_t row;  // counted over all experts
    int64_t rows;
    int64_t expert;
};

// Cuts each expert's rows into equal strips; the last of an expert may be shorter.
class Strips {
  public:
    explicit Strips(const Shape & shape)
        : shape_(shape),
          rows_(std::clamp<int64_t>(kStripWeights / std::max<int64_t>(shape.columns, 1), 1,
                                    std::max<int64_t>(shape.rows, 1))),
          per_expert_((shape.rows + rows_ - 1) / rows_) {}

    int64_t count() const { return shape_.experts * per_expert_; }

    Strip operator[](int64_t index) const {
        const int64_t expert = index / per_expert_;
        const int64_t first = (index % per_expert_) * rows_;
        return {expert * shape_.rows + first, std::min(rows_, shape_.rows - first), expert};
    }

  private:
    Shape shape_;
    int64_t rows_;
    int64_t per_expert_;
};

size_t bytes_of(int64_t rows, ggml_type type, const Shape & shape) {
    return static_cast<size_t>(rows) * ggml_row_size(type, shape.columns);
}

const uint8_t * at_row(const void * data, ggml_type type, const Shape & shape, int64_t row) {
    return static_cast<const uint8_t *>(data) + bytes_of(row, type, shape);
}

uint8_t * at_row(void * data, ggml_type type, const Shape & shape, int64_t row) {
    return static_cast<uint8_t *>(data) + bytes_of(row, type, shape);
}

// The importance of an expert's columns, or null.
const float * of_expert(const float * importance, const Shape & shape, int64_t expert) {
    return importance == nullptr ? nullptr : importance + expert * shape.columns;
}

// This thread's buffer number `buffer`, with room for `weights` weights.
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

[[noreturn]] void throw_bad_weight(const float * values, const Strip & strip, const Shape & shape) {
    int64_t i = 0;
    while (is_finite(values[i])) {
        ++i;
    }
    throw BadData(std::string("a weight is ") + (std::isnan(values[i]) ? "NaN" : "infinite"),
                  strip.row + i / shape.columns);
}

QuantizeRows kernel_for(const KernelTable & kernels, ggml_type type, const float * importance) {
    return kernels.quantize[type][importance != nullptr];
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
    const Strips strips(shape);
    parallel_for(strips.count(), threads, [&](int64_t index) {
        guard::Scope scope;
        const Strip strip = strips[index];
        const int64_t weights = strip.rows * shape.columns;
        const auto [values, finite] =
            as_checked_f32(at_row(source, source_type, shape, strip.row), source_type, weights);
        if (!finite) {
            throw_bad_weight(values, strip, shape);
        }
        const float * row_importance = of_expert(importance, shape, strip.expert);
        uint8_t * output = at_row(target, type, shape, strip.row);
        bool too_large = false;
        if (kernel != nullptr) {
            kernel({values, row_importance, strip.rows, shape.columns, output, &too_large});
        } else {
            ggml_quantize_chunk(type, values, output, 0, strip.rows, shape.columns, row_importance);
        }
        if (too_large || !ggml_validate_row_data(type, output, bytes_of(strip.rows, type, shape))) {
            throw BadData("a weight is too large for " + facts.name, strip.row);
        }
    });
}

void quantize_rows_with_ggml(const float * source, const Shape & shape, ggml_type type,
                             const float * importance, void * target) {
    guard::Scope scope;
    FpEnvironment exact;
    for (int64_t expert = 0; expert < shape.experts; ++expert) {
        const int64_t row = expert * shape.rows;
        ggml_quantize_chunk(type, source + row * shape.columns, at_row(target, type, shape, row), 0,
                            shape.rows, shape.columns, of_expert(importance, shape, expert));
    }
}

void quantize_rows_with_kernel(const float * source, const Shape & shape, ggml_type type,
                               const float * importance, void * target, const std::string & isa) {
    const QuantizeRows kernel = kernel_for(dispatch::kernels(isa), type, importance);
    if (kernel == nullptr) {
        throw std::invalid_argument("there is no kernel for " + facts_of(type).name);
    }
    FpEnvironment exact;
    bool too_large = false;
    for (int64_t expert = 0; expert < shape.experts; ++expert) {
        const int64_t row = expert * shape.rows;
        kernel({source + row * shape.columns, of_expert(importance, shape, expert), shape.rows,
                shape.columns, at_row(target, type, shape, row), &too_large});
    }
}

void dequantize_rows(const void * source, ggml_type source_type, const Shape & shape,
                     float * target, int threads) {
    require_readable(source_type);
    const Strips strips(shape);
    parallel_for(strips.count(), threads, [&](int64_t index) {
        guard::Scope scope;
        const Strip strip = strips[index];
        const int64_t weights = strip.rows * shape.columns;
        const uint8_t * input = at_row(source, source_type, shape, strip.row);
        float * output = target + strip.row * shape.columns;
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
    const Strips strips(shape);
    parallel_for(strips.count(), threads, [&](int64_t index) {
        guard::Scope scope;
        const Strip strip = strips[index];
        const uint8_t * rows = at_row(data, type, shape, strip.row);
        if (facts.is_quantized) {
            if (!ggml_validate_row_data(type, rows, bytes_of(strip.rows, type, shape))) {
                throw BadData("a block of type " + facts.name + " is damaged", strip.row);
            }
            return;
        }
        const int64_t weights = strip.rows * shape.columns;
        const auto [values, finite] = as_checked_f32(rows, type, weights);
        if (!finite) {
            throw_bad_weight(values, strip, shape);
        }
    });
}

namespace {

// Adds the rows of one strip, in their order.
void compare_strip(const float * a, const float * b, const float * importance, const Strip & strip,
                   int64_t columns, Comparison & part) {
    for (int64_t row = 0; row < strip.rows; ++row) {
        for (int64_t first = 0; first < columns; first += kComparedBlock) {
            const int64_t end = std::min(first + kComparedBlock, columns);
            double block_error = 0;
            for (int64_t column = first; column < end; ++column) {
                const int64_t i = row * columns + column;
                if (!is_finite(a[i])) {
                    ++part.bad_values;
                    continue;
                }
                const double difference = static_cast<double>(a[i]) - b[i];
                const double error = difference * difference;
                const double square = static_cast<double>(b[i]) * b[i];
                block_error += error;
                part.reference += square;
                if (importance != nullptr) {
                    part.weighted_error += importance[column] * error;
                    part.weighted_reference += importance[column] * square;
                }
            }
            part.error += block_error;
            if (block_error > part.worst_error) {
                part.worst_error = block_error;
                part.worst_row = strip.row + row;
                part.worst_column = first;
            }
        }
    }
}

Comparison sum_of(const std::vector<Comparison> & parts) {
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

}  // namespace

Comparison compare_rows(const void * quantized, ggml_type quantized_type, const void * reference,
                        ggml_type reference_type, const Shape & shape, const float * importance,
                        int threads) {
    require_readable(quantized_type);
    require_readable(reference_type);
    const Strips strips(shape);
    std::vector<Comparison> parts(static_cast<size_t>(strips.count()));
    parallel_for(strips.count(), threads, [&](int64_t index) {
        guard::Scope scope;
        const Strip strip = strips[index];
        const int64_t weights = strip.rows * shape.columns;
        const float * a =
            as_f32(at_row(quantized, quantized_type, shape, strip.row), quantized_type, weights, 0);
        const float * b =
            as_f32(at_row(reference, reference_type, shape, strip.row), reference_type, weights, 1);
        compare_strip(a, b, of_expert(importance, shape, strip.expert), strip, shape.columns,
                      parts[static_cast<size_t>(index)]);
    });
    return sum_of(parts);
}

}  // namespace apex::engine
