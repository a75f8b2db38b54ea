#include <pybind11/stl.h>

#include "arguments.h"
#include "dispatch/dispatch.h"
#include "engine/parallel.h"
#include "engine/rows.h"
#include "engine/types.h"
#include "register.h"

namespace apex::bind {

namespace {

using OptionalName = std::optional<std::string>;
using OptionalShape = std::optional<std::vector<py::ssize_t>>;
using OptionalBuffer = std::optional<py::buffer>;

// Where a function writes: the caller's buffer, or a new array of the given shape.
template <typename T>
std::pair<py::object, void *> output(const OptionalBuffer & out, std::vector<py::ssize_t> rows,
                                     py::ssize_t row_elements) {
    rows.push_back(row_elements);
    size_t bytes = sizeof(T);
    for (const py::ssize_t dimension : rows) {
        bytes *= static_cast<size_t>(dimension);
    }
    if (out) {
        return {*out, to_output(*out, bytes).ptr};
    }
    py::array_t<T> array(rows);
    return {array, array.mutable_data()};
}

py::object quantize(const py::buffer & src, const std::string & type,
                    const OptionalBuffer & importance, const OptionalName & src_type,
                    const OptionalShape & shape, const OptionalBuffer & out, int threads) {
    const Weights weights = to_weights(src, src_type, shape);
    const ggml_type target_type = to_target_type(type, weights.shape);
    const Importance row_importance(importance, weights.shape);
    auto [result, target] = output<uint8_t>(
        out, weights.rows_shape,
        static_cast<py::ssize_t>(ggml_row_size(target_type, weights.shape.columns)));
    {
        py::gil_scoped_release release;  // all arguments are plain pointers by now
        engine::quantize_rows(weights.buffer.ptr, weights.type, weights.shape, target_type,
                              row_importance.data(), target, threads);
    }
    return result;
}

py::object dequantize(const py::buffer & src, const OptionalName & src_type,
                      const OptionalShape & shape, const OptionalBuffer & out, int threads) {
    const Weights weights = to_weights(src, src_type, shape);
    auto [result, target] =
        output<float>(out, weights.rows_shape, static_cast<py::ssize_t>(weights.shape.columns));
    {
        py::gil_scoped_release release;
        engine::dequantize_rows(weights.buffer.ptr, weights.type, weights.shape,
                                static_cast<float *>(target), threads);
    }
    return result;
}

void check(const py::buffer & src, const OptionalName & src_type, const OptionalShape & shape,
           int threads) {
    const Weights weights = to_weights(src, src_type, shape);
    py::gil_scoped_release release;
    engine::check_rows(weights.buffer.ptr, weights.type, weights.shape, threads);
}

engine::Comparison compare(const py::buffer & quantized, const std::string & quantized_type,
                           const py::buffer & reference, const std::string & reference_type,
                           const std::vector<py::ssize_t> & shape,
                           const OptionalBuffer & importance, int threads) {
    const Weights a = to_weights(quantized, quantized_type, shape);
    const Weights b = to_weights(reference, reference_type, shape);
    const Importance row_importance(importance, a.shape);
    py::gil_scoped_release release;
    return engine::compare_rows(a.buffer.ptr, a.type, b.buffer.ptr, b.type, a.shape,
                                row_importance.data(), threads);
}

}  // namespace

void register_engine(py::module_ & module) {
    module.def("quantize", &quantize, py::arg("src"), py::arg("type"),
               py::arg("importance") = py::none(), py::kw_only(), py::arg("src_type") = py::none(),
               py::arg("shape") = py::none(), py::arg("out") = py::none(), py::arg("threads") = 0,
               R"(Quantizes the weights of one tensor, with the bytes of ggml_quantize_chunk.

src: a C-contiguous buffer (numpy array, mmap, memoryview) of shape (columns,), (rows, columns) or
    (experts, rows, columns); float32 or float16, or of the type that src_type names.
type: the tensor type to write, as in "Q4_K".
importance: float32, one value per column, or per expert and column; finite and not negative.
shape: the weights' shape where src is plain bytes.
out: a writable buffer for the result; without it a uint8 array (..., bytes of a row) is made.
threads: 0 for all that are available. The GIL is released.

Raises ValueError for arguments that do not fit together, BadDataError for weights that are NaN or
infinite or too large for the type.)");
    module.def("dequantize", &dequantize, py::arg("src"), py::arg("src_type") = py::none(),
               py::kw_only(), py::arg("shape") = py::none(), py::arg("out") = py::none(),
               py::arg("threads") = 0,
               R"(Returns the weights of one tensor as float32, of the same shape.

src: as for quantize(); a uint8 array (..., bytes of a row) of a quantized type needs no shape.)");
    module.def("check", &check, py::arg("src"), py::arg("src_type") = py::none(), py::kw_only(),
               py::arg("shape") = py::none(), py::arg("threads") = 0,
               "Raises BadDataError if a weight is NaN or infinite or a quantized block damaged.");

    using engine::Comparison;
    py::class_<Comparison>(module, "Comparison", "Sums over the differences between two tensors.")
        .def_readonly("error", &Comparison::error, "Sum of squared differences.")
        .def_readonly("reference", &Comparison::reference, "Sum of the reference's squares.")
        .def_readonly("weighted_error", &Comparison::weighted_error)
        .def_readonly("weighted_reference", &Comparison::weighted_reference)
        .def_readonly("worst_error", &Comparison::worst_error,
                      "The largest sum of squared differences of one block of 256 weights.")
        .def_readonly("worst_row", &Comparison::worst_row)
        .def_readonly("worst_column", &Comparison::worst_column)
        .def_readonly("bad_values", &Comparison::bad_values, "NaN or infinite values.");
    module.def("compare", &compare, py::arg("quantized"), py::arg("quantized_type"),
               py::arg("reference"), py::arg("reference_type"), py::arg("shape"),
               py::arg("importance") = py::none(), py::arg("threads") = 0,
               "Compares two buffers of weights of the same shape, in double precision.");
    module.def("available_isas", &dispatch::available,
               "The instruction sets of the kernels that this CPU runs, from narrow to wide.");
    module.def(
        "active_isa", [] { return dispatch::kernels().isa; },
        "The one that runs. Raises ValueError if APEX_ISA names one that is not available.");
    module.def("available_threads", &engine::available_threads,
               "The number of processors that this process may use.");
}

}  // namespace apex::bind
