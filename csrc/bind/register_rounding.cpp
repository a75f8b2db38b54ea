#include <pybind11/stl.h>

#include "arguments.h"
#include "register.h"
#include "rounding/unshrink.h"

namespace apex::bind {

namespace {

void unshrink(const py::buffer & src, const std::string & type, const py::buffer & importance,
              const py::buffer & out, const std::optional<std::string> & src_type,
              const std::optional<std::vector<py::ssize_t>> & shape, int threads) {
    const Weights weights = to_weights(src, src_type, shape);
    const ggml_type target_type = to_target_type(type, weights.shape);
    const Importance row_importance(importance, weights.shape);
    const size_t row_bytes = ggml_row_size(target_type, weights.shape.columns);
    const py::buffer_info target =
        to_output(out, static_cast<size_t>(weights.shape.all_rows()) * row_bytes);
    py::gil_scoped_release release;
    rounding::unshrink_rows(weights.buffer.ptr, weights.type, weights.shape, target_type,
                            row_importance.data(), target.ptr, threads);
}

}  // namespace

void register_rounding(py::module_ & module) {
    module.def(
        "unshrink", &unshrink, py::arg("src"), py::arg("type"), py::arg("importance"),
        py::arg("out"), py::kw_only(), py::arg("src_type") = py::none(),
        py::arg("shape") = py::none(), py::arg("threads") = 0,
        R"(Multiplies the scales of quantized rows, in place, so that their outputs keep their size.

A row's factor is the sum of h w w over that of h w v: w the weights, v those that its levels stand
for, h their importance; 1 where that is not between 1/2 and 2. Levels stay. The sums are in double
precision, in the order of the columns; the number of threads changes nothing.

src, type, importance, src_type, shape, threads: as for quantize().
out: what quantize() made of them.

Raises ValueError for arguments that do not fit together and for types without scales in binary16,
BadDataError for weights that are NaN or infinite.)");
}

}  // namespace apex::bind
