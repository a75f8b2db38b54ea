#include "arguments.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "engine/types.h"

namespace apex::bind {

namespace {

void require_contiguous(const py::buffer_info & info, const char * what) {
    py::ssize_t expected = info.itemsize;
    for (py::ssize_t i = info.ndim - 1; i >= 0; --i) {
        const auto index = static_cast<size_t>(i);
        if (info.shape[index] > 1 && info.strides[index] != expected) {
            throw py::value_error(std::string(what) + " must be C-contiguous");
        }
        expected *= info.shape[index];
    }
}

void require_aligned(const void * data, size_t alignment, const char * what) {
    if (reinterpret_cast<uintptr_t>(data) % alignment != 0) {
        throw py::value_error(std::string(what) + " must be aligned to its elements");
    }
}

void require_whole_blocks(int64_t columns, const engine::TypeFacts & facts) {
    if (columns % facts.block_weights != 0) {
        throw py::value_error("rows of " + std::to_string(columns) +
                              " weights are not whole blocks of " + facts.name + " (" +
                              std::to_string(facts.block_weights) + " weights)");
    }
}

ggml_type type_of_format(const py::buffer_info & info) {
    if (info.format == "f" || info.format == "<f") {
        return GGML_TYPE_F32;
    }
    if (info.format == "e" || info.format == "<e") {
        return GGML_TYPE_F16;
    }
    throw py::type_error("the source must be float32 or float16, or src_type must name its type");
}

}  // namespace

ggml_type to_type(const std::string & name) {
    try {
        return engine::type_from_name(name);
    } catch (const std::invalid_argument & error) {
        throw py::value_error(error.what());
    }
}

ggml_type to_target_type(const std::string & name, const engine::Shape & shape) {
    const ggml_type type = to_type(name);
    require_whole_blocks(shape.columns, engine::facts_of(type));
    return type;
}

Weights to_weights(const py::buffer & source, const std::optional<std::string> & type,
                   const std::optional<std::vector<py::ssize_t>> & shape) {
    Weights result{source.request(), GGML_TYPE_F32, {}, {}};
    const py::buffer_info & info = result.buffer;
    require_contiguous(info, "the source");
    result.type = type ? to_type(*type) : type_of_format(info);
    const engine::TypeFacts & facts = engine::facts_of(result.type);

    std::vector<py::ssize_t> dimensions = shape ? *shape : info.shape;
    if (dimensions.empty() || dimensions.size() > 3) {
        throw py::value_error("the weights must have 1, 2 or 3 dimensions");
    }
    for (const py::ssize_t dimension : dimensions) {
        if (dimension < 1 || dimension > (py::ssize_t{1} << 40)) {
            throw py::value_error("every dimension of the weights must be positive");
        }
    }
    if (!shape && !(facts.block_weights == 1 && info.itemsize == facts.block_bytes)) {
        const py::ssize_t row_bytes = dimensions.back() * info.itemsize;
        if (row_bytes % facts.block_bytes != 0) {
            throw py::value_error("the source's rows are not whole blocks of " + facts.name);
        }
        dimensions.back() = row_bytes / facts.block_bytes * facts.block_weights;
    }
    require_whole_blocks(dimensions.back(), facts);
    result.shape.columns = dimensions.back();
    result.shape.rows = dimensions.size() > 1 ? dimensions[dimensions.size() - 2] : 1;
    result.shape.experts = dimensions.size() > 2 ? dimensions[0] : 1;
    result.rows_shape.assign(dimensions.begin(), dimensions.end() - 1);

    const double wanted = static_cast<double>(result.shape.all_rows()) *
                          static_cast<double>(ggml_row_size(result.type, result.shape.columns));
    if (wanted != static_cast<double>(info.size) * static_cast<double>(info.itemsize)) {
        throw py::value_error("the source has " + std::to_string(info.size * info.itemsize) +
                              " bytes, its shape and type ask for " +
                              std::to_string(static_cast<uint64_t>(wanted)));
    }
    require_aligned(info.ptr, result.type == GGML_TYPE_F32 ? alignof(float) : alignof(uint16_t),
                    "the source");
    return result;
}

Importance::Importance(const std::optional<py::buffer> & source, const engine::Shape & shape) {
    if (!source) {
        return;
    }
    buffer_ = source->request();
    if (buffer_->format != "f" && buffer_->format != "<f") {
        throw py::type_error("the importance must be float32");
    }
    require_contiguous(*buffer_, "the importance");
    require_aligned(buffer_->ptr, alignof(float), "the importance");
    const int64_t per_expert = shape.experts * shape.columns;
    if (buffer_->size != per_expert && buffer_->size != shape.columns) {
        throw py::value_error("the importance has " + std::to_string(buffer_->size) +
                              " values, the weights have " + std::to_string(shape.columns) +
                              " columns and " + std::to_string(shape.experts) + " experts");
    }
    const auto * values = static_cast<const float *>(buffer_->ptr);
    const bool good = std::all_of(values, values + buffer_->size,
                                  [](float value) { return std::isfinite(value) && value >= 0; });
    if (!good) {
        throw py::value_error("the importance must be finite and not negative");
    }
    data_ = values;
    if (buffer_->size != per_expert) {  // one row serves all experts
        repeated_.reserve(static_cast<size_t>(per_expert));
        for (int64_t i = 0; i < shape.experts; ++i) {
            repeated_.insert(repeated_.end(), values, values + shape.columns);
        }
        data_ = repeated_.data();
    }
}

py::buffer_info to_output(const py::buffer & target, size_t bytes) {
    py::buffer_info info = target.request(/*writable=*/true);
    require_contiguous(info, "the output");
    if (static_cast<size_t>(info.size * info.itemsize) != bytes) {
        throw py::value_error("the output has " + std::to_string(info.size * info.itemsize) +
                              " bytes, it must have " + std::to_string(bytes));
    }
    return info;
}

}  // namespace apex::bind
