// Python arguments to checked C++ values. Everything is checked before the GIL is released.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/rows.h"

namespace apex::bind {

namespace py = pybind11;

// The weights of one tensor in a buffer that the caller keeps alive.
struct Weights {
    py::buffer_info buffer;
    ggml_type type;
    engine::Shape shape;
    std::vector<py::ssize_t> rows_shape;  // the dimensions before the columns
};

// Reads (columns,), (rows, columns) or (experts, rows, columns) weights from a C-contiguous buffer.
// Without `type`, the buffer's format must be float32 or float16. Without `shape`, the buffer's is
// taken; of a type with blocks, or of plain bytes, its last dimension counts the bytes of a row.
// Throws py::value_error or py::type_error.
Weights to_weights(const py::buffer & source, const std::optional<std::string> & type,
                   const std::optional<std::vector<py::ssize_t>> & shape);

// One finite, non-negative float32 per column, or per expert and column. Throws py::value_error.
class Importance {
  public:
    Importance(const std::optional<py::buffer> & source, const engine::Shape & shape);
    const float * data() const { return data_; }

  private:
    std::optional<py::buffer_info> buffer_;
    const float * data_ = nullptr;
    std::vector<float> repeated_;
};

// A writable C-contiguous buffer of exactly `bytes` bytes. Throws py::value_error.
py::buffer_info to_output(const py::buffer & target, size_t bytes);

// The type of that name. Throws py::value_error.
ggml_type to_type(const std::string & name);

// The type to write, whose blocks must divide the rows. Throws py::value_error.
ggml_type to_target_type(const std::string & name, const engine::Shape & shape);

}  // namespace apex::bind
