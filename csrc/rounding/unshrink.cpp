#include "unshrink.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/parallel.h"
#include "engine/types.h"
#include "guard/guard.h"
#include "scales.h"

namespace apex::rounding {

namespace {

// Rows are handed out in parts of about this many weights.
constexpr int64_t kPartWeights = 16 * 1024;

constexpr double kLeast = 0.5;
constexpr double kMost = 2;

// The rows of a tensor, to be read as F32 one at a time.
class Rows {
  public:
    Rows(const void * data, ggml_type type, int64_t columns)
        : data_(static_cast<const uint8_t *>(data)),
          to_float_(ggml_get_type_traits(type)->to_float),
          bytes_(ggml_row_size(type, columns)),
          columns_(columns) {}

    // Valid until the next call with the same buffer.
    const float * read(int64_t row, std::vector<float> & buffer) const {
        const uint8_t * bytes = data_ + static_cast<size_t>(row) * bytes_;
        if (to_float_ == nullptr) {  // F32
            return reinterpret_cast<const float *>(bytes);
        }
        buffer.resize(static_cast<size_t>(columns_));
        to_float_(bytes, buffer.data(), columns_);
        return buffer.data();
    }

  private:
    const uint8_t * data_;
    ggml_to_float_t to_float_;
    size_t bytes_;
    int64_t columns_;
};

// 1 where the rounded weights say nothing about the size of the row.
float factor_of(const float * weights, const float * rounded, const float * importance,
                int64_t columns, int64_t row) {
    double squares = 0;
    double products = 0;
    for (int64_t i = 0; i < columns; ++i) {
        const double weighted = static_cast<double>(importance[i]) * weights[i];
        squares += weighted * weights[i];
        products += weighted * rounded[i];
    }
    if (!std::isfinite(squares) || !std::isfinite(products)) {
        throw engine::BadData("a weight is NaN or infinite", row);
    }
    if (squares <= 0 || products <= 0) {
        return 1;
    }
    const double factor = squares / products;
    return kLeast <= factor && factor <= kMost ? static_cast<float>(factor) : 1;
}

}  // namespace

void unshrink_rows(const void * source, ggml_type source_type, const engine::Shape & shape,
                   ggml_type type, const float * importance, void * target, int threads) {
    if (!engine::facts_of(source_type).has_dequantizer) {
        throw std::invalid_argument("weights of type " + engine::facts_of(source_type).name +
                                    " cannot be read");
    }
    if (!has_scales(type)) {
        throw std::invalid_argument("blocks of type " + engine::facts_of(type).name +
                                    " have no scales in binary16");
    }
    const Rows weights(source, source_type, shape.columns);
    const Rows rounded(target, type, shape.columns);
    const size_t row_bytes = ggml_row_size(type, shape.columns);
    const int64_t blocks = shape.columns / ggml_blck_size(type);
    const int64_t step = std::max<int64_t>(1, kPartWeights / shape.columns);
    engine::parallel_for((shape.all_rows() + step - 1) / step, threads, [&](int64_t part) {
        guard::Scope scope;
        thread_local std::vector<float> buffers[2];
        const int64_t end = std::min((part + 1) * step, shape.all_rows());
        for (int64_t row = part * step; row < end; ++row) {
            uint8_t * bytes = static_cast<uint8_t *>(target) + static_cast<size_t>(row) * row_bytes;
            const float factor =
                factor_of(weights.read(row, buffers[0]), rounded.read(row, buffers[1]),
                          importance + row / shape.rows * shape.columns, shape.columns, row);
            scale_blocks(type, bytes, blocks, factor);
            if (!ggml_validate_row_data(type, bytes, row_bytes)) {
                throw engine::BadData(
                    "a block of type " + engine::facts_of(type).name + " is damaged", row);
            }
        }
    });
}

}  // namespace apex::rounding
