#include <pybind11/stl.h>

#include "arguments.h"
#include "engine/types.h"
#include "gguf/header.h"
#include "llama/patterns.h"
#include "llama/type_rules.h"
#include "register.h"
#include "rule_options.h"

namespace apex::bind {

namespace {

using llama::RuleOptions;
using llama::TensorDecision;

using TensorTuple = std::tuple<std::string, std::vector<int64_t>, std::string, OptionalName>;

std::vector<TensorDecision> decide_types(
    const ::apex::gguf::Header & header, const std::string & path,
    const std::vector<TensorTuple> & tensors, const std::string & file_type,
    const OptionalName & output_tensor_type, const OptionalName & token_embedding_type, bool pure,
    bool quantize_output_tensor, bool copy, bool has_importance, const KeyValues & overrides) {
    const RuleOptions options =
        to_rule_options(file_type, output_tensor_type, token_embedding_type, pure,
                        quantize_output_tensor, copy, has_importance, overrides);
    std::vector<llama::TensorQuery> queries;
    for (const auto & [name, shape, type, forced] : tensors) {
        queries.push_back({name, shape, to_type(type), to_optional_type(forced)});
    }
    py::gil_scoped_release release;
    return llama::decide_types(header.context(), path, options, queries);
}

std::vector<int> first_match(const std::vector<std::string> & patterns,
                             const std::vector<std::string> & names) {
    py::gil_scoped_release release;
    return llama::first_match(patterns, names, [] {
        py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) {
            throw py::error_already_set();
        }
    });
}

}  // namespace

void register_quantizer(py::module_ & module) {
    py::class_<TensorDecision>(module, "TensorDecision", "What llama.cpp decides about one tensor.")
        .def_readonly("may_quantize", &TensorDecision::may_quantize,
                      "False where llama.cpp keeps the tensor's type.")
        .def_property_readonly(
            "wanted",
            [](const TensorDecision & rule) { return engine::facts_of(rule.wanted).name; },
            "The type before a fallback for the row length.")
        .def_property_readonly(
            "type", [](const TensorDecision & rule) { return engine::facts_of(rule.type).name; },
            "The type that llama.cpp writes.")
        .def_readonly("needs_importance", &TensorDecision::needs_importance,
                      "llama.cpp refuses to write this type without an importance.");

    module.def("output_order", &llama::output_order, py::arg("names"),
               "The order in which llama.cpp writes tensors of these names into a single file.");
    module.def(
        "first_match", &first_match, py::arg("patterns"), py::arg("names"),
        "For each name the index of the first pattern found in it (std::regex_search), or -1. "
        "Raises ValueError for a pattern that is malformed, too long or takes too long to match. "
        "The GIL is released; signals are looked at.");
    module.def(
        "decide_types", &decide_types, py::arg("header"), py::arg("path"), py::arg("tensors"),
        py::arg("file_type"), py::kw_only(), py::arg("output_tensor_type") = py::none(),
        py::arg("token_embedding_type") = py::none(), py::arg("pure") = false,
        py::arg("quantize_output_tensor") = true, py::arg("copy") = false,
        py::arg("has_importance") = false, py::arg("overrides") = KeyValues{},
        R"(llama.cpp's decision about every tensor, by its own functions (src/llama-quant.cpp).

header, path: those of the model's first file.
tensors: (name, shape, type, forced type or None) of all tensors, in the order of the output.
overrides: (key, value) pairs that replace metadata.
Raises ModelError where libllama does not know the architecture or misses metadata.)");
}

}  // namespace apex::bind
