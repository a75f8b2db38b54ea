// apex_reference: what apex is compared with, by tests and benchmarks. It is in no wheel.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "bind/arguments.h"
#include "bind/exceptions.h"
#include "bind/rule_options.h"
#include "engine/rows.h"
#include "engine/types.h"
#include "quantizer.h"

namespace py = pybind11;

namespace apex::reference {

namespace {

using bind::KeyValues;
using bind::OptionalName;
using OptionalBuffer = std::optional<py::buffer>;

void quantize_model(
    const std::string & input, const std::string & output, const std::string & file_type,
    const std::map<std::string, py::array_t<float, py::array::c_style>> & importance,
    const std::vector<std::pair<std::string, std::string>> & tensor_types,
    const OptionalName & output_tensor_type, const OptionalName & token_embedding_type, bool pure,
    bool quantize_output_tensor, bool copy, bool allow_requantize, bool keep_split,
    const KeyValues & overrides, int threads) {
    Options options;
    options.rules =
        bind::to_rule_options(file_type, output_tensor_type, token_embedding_type, pure,
                              quantize_output_tensor, copy, !importance.empty(), overrides);
    for (const auto & [name, values] : importance) {
        options.importance[name].assign(values.data(), values.data() + values.size());
    }
    for (const auto & [pattern, type] : tensor_types) {
        options.tensor_types.emplace_back(pattern, bind::to_type(type));
    }
    options.allow_requantize = allow_requantize;
    options.keep_split = keep_split;
    options.threads = threads;
    py::gil_scoped_release release;
    quantize_with_llama(input, output, options);
}

// On one thread and without checks: ggml's function, or the kernel of an instruction set.
py::array_t<uint8_t> quantize_bare(const py::buffer & src, const std::string & type,
                                   const OptionalBuffer & importance, const OptionalName & isa) {
    const bind::Weights weights = bind::to_weights(src, "F32", std::nullopt);
    const ggml_type target_type = bind::to_type(type);
    const engine::TypeFacts & facts = engine::facts_of(target_type);
    if (weights.shape.columns % facts.block_weights != 0) {
        throw py::value_error("the rows are not whole blocks of " + facts.name);
    }
    if (!facts.has_quantizer || (facts.needs_importance && !importance)) {
        throw py::value_error("ggml cannot write " + facts.name + " so");
    }
    const bind::Importance row_importance(importance, weights.shape);
    std::vector<py::ssize_t> shape = weights.rows_shape;
    shape.push_back(static_cast<py::ssize_t>(ggml_row_size(target_type, weights.shape.columns)));
    py::array_t<uint8_t> result(shape);
    const auto * source = static_cast<const float *>(weights.buffer.ptr);
    uint8_t * target = result.mutable_data();
    py::gil_scoped_release release;
    if (isa) {
        engine::quantize_rows_with_kernel(source, weights.shape, target_type, row_importance.data(),
                                          target, *isa);
    } else {
        engine::quantize_rows_with_ggml(source, weights.shape, target_type, row_importance.data(),
                                        target);
    }
    return result;
}

}  // namespace

PYBIND11_MODULE(apex_reference, module) {
    module.doc() = "What apex is compared with: llama.cpp's own quantizer, ggml's own functions.";
    bind::register_exceptions(module);
    module.def("quantize_with_llama", &quantize_model, py::arg("input"), py::arg("output"),
               py::arg("file_type"), py::kw_only(), py::arg("importance") = py::dict(),
               py::arg("tensor_types") = py::list(), py::arg("output_tensor_type") = py::none(),
               py::arg("token_embedding_type") = py::none(), py::arg("pure") = false,
               py::arg("quantize_output_tensor") = true, py::arg("copy") = false,
               py::arg("allow_requantize") = false, py::arg("keep_split") = false,
               py::arg("overrides") = KeyValues{}, py::arg("threads") = 0,
               "Runs llama_model_quantize. Raises ModelError.");
    module.def(
        "quantize_with_ggml",
        [](const py::buffer & src, const std::string & type, const OptionalBuffer & importance) {
            return quantize_bare(src, type, importance, std::nullopt);
        },
        py::arg("src"), py::arg("type"), py::arg("importance") = py::none(),
        "ggml_quantize_chunk itself, for float32 on one thread and without checks.");
    module.def("quantize_with_kernel", &quantize_bare, py::arg("src"), py::arg("type"),
               py::arg("importance"), py::arg("isa"),
               "The kernel of one of apex's instruction sets itself, on one thread and without "
               "checks.");
}

}  // namespace apex::reference
