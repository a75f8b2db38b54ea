#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>

#include "arguments.h"
#include "register.h"
#include "rounding/compensate.h"
#include "rounding/objective.h"
#include "rounding/unshrink.h"

namespace apex::bind {

namespace {

using rounding::Objective;
using Floats = py::array_t<float, py::array::c_style>;

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

int64_t triangle(int64_t columns) {
    return columns * (columns + 1) / 2;
}

std::unique_ptr<Objective> make_objective(int64_t columns, const Floats & sums, double rows,
                                          const Floats & pooled, double pooled_rows,
                                          double prior_rows, double damping) {
    if (columns < 1 || sums.size() != triangle(columns) || pooled.size() != triangle(columns)) {
        throw py::value_error("second moments are the lower triangle of a matrix of the columns");
    }
    const rounding::Moments own{sums.data(), rows};
    const rounding::Moments all{pooled.data(), pooled_rows};
    py::gil_scoped_release release;
    return std::make_unique<Objective>(own, all, columns, rounding::Shrinkage{prior_rows, damping});
}

std::pair<py::array_t<uint8_t>, py::array_t<double>> compensate(
    const py::buffer & src, const std::string & type, const std::optional<py::buffer> & importance,
    const Objective & objective, const std::optional<std::string> & src_type,
    const std::optional<std::vector<py::ssize_t>> & shape, int sweeps, int how, int threads) {
    const Weights weights = to_weights(src, src_type, shape);
    const ggml_type target_type = to_type(type);
    const Importance row_importance(importance, weights.shape);
    const auto row_bytes =
        static_cast<py::ssize_t>(ggml_row_size(target_type, weights.shape.columns));
    const auto rows = static_cast<py::ssize_t>(weights.shape.rows);
    py::array_t<uint8_t> result({rows, row_bytes});
    py::array_t<double> reached({rows, static_cast<py::ssize_t>(2)});
    uint8_t * target = result.mutable_data();
    double * objectives = reached.mutable_data();
    {
        py::gil_scoped_release release;
        rounding::quantize_compensated(weights.buffer.ptr, weights.type, weights.shape, target_type,
                                       row_importance.data(), objective, target, sweeps, how,
                                       objectives, threads);
    }
    return {result, reached};
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
    py::class_<Objective>(module, "Objective")
        .def(py::init(&make_objective), py::arg("columns"), py::arg("sums"), py::arg("rows"),
             py::arg("pooled"), py::arg("pooled_rows"), py::arg("prior_rows"), py::arg("damping"))
        .def_property_readonly("columns", &Objective::columns);
    module.def("quantize_compensated", &compensate, py::arg("src"), py::arg("type"),
               py::arg("importance"), py::arg("objective"), py::kw_only(),
               py::arg("src_type") = py::none(), py::arg("shape") = py::none(),
               py::arg("sweeps") = 2, py::arg("how") = 0, py::arg("threads") = 0);
}

}  // namespace apex::bind
