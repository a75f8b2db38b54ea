#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "arguments.h"
#include "register.h"
#include "rounding/compensate.h"
#include "rounding/objective.h"
#include "rounding/unshrink.h"

namespace apex::bind {

namespace {

using rounding::Objective;
using Floats = py::array_t<float, py::array::c_style>;
using OptionalName = std::optional<std::string>;
using OptionalShape = std::optional<std::vector<py::ssize_t>>;

// What quantize() made of the weights, to be changed in place.
py::buffer_info to_quantized(const py::buffer & out, ggml_type type, const Weights & weights) {
    const size_t row_bytes = ggml_row_size(type, weights.shape.columns);
    return to_output(out, static_cast<size_t>(weights.shape.all_rows()) * row_bytes);
}

void unshrink(const py::buffer & src, const std::string & type, const py::buffer & importance,
              const py::buffer & out, const OptionalName & src_type, const OptionalShape & shape,
              int threads) {
    const Weights weights = to_weights(src, src_type, shape);
    const ggml_type target_type = to_target_type(type, weights.shape);
    const Importance row_importance(importance, weights.shape);
    const py::buffer_info target = to_quantized(out, target_type, weights);
    py::gil_scoped_release release;
    rounding::unshrink_rows(weights.buffer.ptr, weights.type, weights.shape, target_type,
                            row_importance.data(), target.ptr, threads);
}

void compensate(const py::buffer & src, const std::string & type, const Objective & objective,
                const py::buffer & out, const OptionalName & src_type, const OptionalShape & shape,
                int threads) {
    const Weights weights = to_weights(src, src_type, shape);
    const ggml_type target_type = to_target_type(type, weights.shape);
    const py::buffer_info target = to_quantized(out, target_type, weights);
    py::gil_scoped_release release;
    rounding::compensate_rows(weights.buffer.ptr, weights.type, weights.shape, target_type,
                              objective, target.ptr, threads);
}

std::unique_ptr<Objective> make_objective(int64_t columns, const Floats & sums, double rows,
                                          const Floats & pooled, double pooled_rows,
                                          double prior_rows, std::optional<double> damping,
                                          double level, int threads) {
    const int64_t triangle = columns * (columns + 1) / 2;
    if (columns < 1 || sums.size() != triangle || pooled.size() != triangle) {
        throw py::value_error("second moments are the lower triangle of a square of the columns");
    }
    const rounding::Moments own{sums.data(), rows};
    const rounding::Moments all{pooled.data(), pooled_rows};
    const rounding::Shrinkage shrinkage{
        prior_rows, damping ? *damping : rounding::damping_for(rows, columns), level};
    py::gil_scoped_release release;
    return std::make_unique<Objective>(own, all, columns, shrinkage, threads);
}

Floats moments(const Objective & objective) {
    const auto columns = static_cast<py::ssize_t>(objective.columns());
    return Floats({columns, columns}, objective.moments());
}

Floats diagonal(const Objective & objective) {
    Floats result(static_cast<py::ssize_t>(objective.columns()));
    for (int64_t i = 0; i < objective.columns(); ++i) {
        result.mutable_data()[i] = objective.moments()[i * (objective.columns() + 1)];
    }
    return result;
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
    py::class_<Objective>(module, "Objective",
                          R"(What compensated rounding makes small: the sum over rows of e H e^T.

e is the error of a row of weights, and H what is known of the second moments of its inputs.)")
        .def(py::init(&make_objective), py::arg("columns"), py::arg("sums"), py::arg("rows"),
             py::arg("pooled"), py::arg("pooled_rows"), py::kw_only(),
             py::arg("prior_rows") = 256.0, py::arg("damping") = py::none(), py::arg("level") = 0.1,
             py::arg("threads") = 0,
             R"(H is sums + prior_rows * pooled / pooled_rows, over the mean of its diagonal.

sums: float32, the lower triangle of the sum of x x^T over `rows` inputs, row by row.
pooled, pooled_rows: the same of all experts of the tensor.
damping: what is added to the diagonal, as a share of it; without it 3 * columns / rows, so
    that of few rows little more than the diagonal is left, and at least 0.1.
level: what is added to the diagonal, as a share of its mean, so that inputs of other texts count.

Raises ValueError for sizes that do not fit together and where nothing is known.)")
        .def_property_readonly("columns", &Objective::columns)
        .def_property_readonly("moments", &moments, "H, float32 (columns, columns); a copy.")
        .def_property_readonly("diagonal", &diagonal, "Of H, float32 (columns,); a copy.");
    module.def("compensate", &compensate, py::arg("src"), py::arg("type"), py::arg("objective"),
               py::arg("out"), py::kw_only(), py::arg("src_type") = py::none(),
               py::arg("shape") = py::none(), py::arg("threads") = 0,
               R"(Improves the quantized rows of one matrix under an objective, in place.

Errors of columns whose inputs move together make up for each other; then the scales of each row are
multiplied so that its outputs keep their size. All sums are in binary32 in an order that depends on
nothing but the columns.

src, type, src_type, shape, threads: as for quantize(), of one matrix.
out: what quantize() made of it.

Raises ValueError for arguments that do not fit together and types that cannot be compensated,
BadDataError for weights that are NaN, infinite or too large.)");
}

}  // namespace apex::bind
