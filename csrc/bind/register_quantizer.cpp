#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <variant>

#include "arguments.h"
#include "engine/types.h"
#include "gguf/header.h"
#include "llama/patterns.h"
#include "llama/reference.h"
#include "llama/type_rules.h"
#include "register.h"

namespace apex::bind {

namespace {

using llama::KeyOverride;
using llama::RuleOptions;
using llama::TensorRule;

using OptionalName = std::optional<std::string>;
using KeyValue = std::variant<bool, int64_t, double, std::string>;
using KeyValues = std::vector<std::pair<std::string, KeyValue>>;

void copy_text(char (&target)[128], const std::string & text, const char * what) {
    if (text.size() >= sizeof(target)) {
        throw py::value_error(std::string(what) + " must be shorter than 128 bytes");
    }
    std::memcpy(target, text.c_str(), text.size() + 1);
}

KeyOverride to_override(const std::string & key, const KeyValue & value) {
    KeyOverride result{};
    copy_text(result.key, key, "a key");
    if (const auto * flag = std::get_if<bool>(&value)) {
        result.tag = LLAMA_KV_OVERRIDE_TYPE_BOOL;
        result.val_bool = *flag;
    } else if (const auto * integer = std::get_if<int64_t>(&value)) {
        result.tag = LLAMA_KV_OVERRIDE_TYPE_INT;
        result.val_i64 = *integer;
    } else if (const auto * number = std::get_if<double>(&value)) {
        result.tag = LLAMA_KV_OVERRIDE_TYPE_FLOAT;
        result.val_f64 = *number;
    } else {
        result.tag = LLAMA_KV_OVERRIDE_TYPE_STR;
        copy_text(result.val_str, std::get<std::string>(value), "a text value");
    }
    return result;
}

std::optional<ggml_type> to_optional_type(const OptionalName & name) {
    return name ? std::optional(to_type(*name)) : std::nullopt;
}

llama_ftype to_file_type(const std::string & name) {
    for (const llama::FileType & type : llama::file_types()) {
        if (name == type.name) {
            return type.type;
        }
    }
    throw py::value_error("there is no file type '" + name + "'");
}

RuleOptions to_options(const std::string & file_type, const OptionalName & output_tensor_type,
                       const OptionalName & token_embedding_type, bool pure,
                       bool quantize_output_tensor, bool copy, bool has_importance,
                       const KeyValues & overrides) {
    RuleOptions options;
    options.file_type = to_file_type(file_type);
    options.output_tensor_type = to_optional_type(output_tensor_type);
    options.token_embedding_type = to_optional_type(token_embedding_type);
    options.pure = pure;
    options.quantize_output_tensor = quantize_output_tensor;
    options.copy = copy;
    options.has_importance = has_importance;
    for (const auto & [key, value] : overrides) {
        options.overrides.push_back(to_override(key, value));
    }
    return options;
}

using TensorTuple = std::tuple<std::string, std::vector<int64_t>, std::string, OptionalName>;

std::vector<TensorRule> decide_types(const ::apex::gguf::Header & header, const std::string & path,
                                     const std::vector<TensorTuple> & tensors,
                                     const std::string & file_type,
                                     const OptionalName & output_tensor_type,
                                     const OptionalName & token_embedding_type, bool pure,
                                     bool quantize_output_tensor, bool copy, bool has_importance,
                                     const KeyValues & overrides) {
    const RuleOptions options =
        to_options(file_type, output_tensor_type, token_embedding_type, pure,
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

void quantize_with_llama(
    const std::string & input, const std::string & output, const std::string & file_type,
    const std::map<std::string, py::array_t<float, py::array::c_style>> & importance,
    const std::vector<std::pair<std::string, std::string>> & tensor_types,
    const OptionalName & output_tensor_type, const OptionalName & token_embedding_type, bool pure,
    bool quantize_output_tensor, bool copy, bool allow_requantize, bool keep_split,
    const KeyValues & overrides, int threads) {
    llama::ReferenceOptions options;
    options.rules = to_options(file_type, output_tensor_type, token_embedding_type, pure,
                               quantize_output_tensor, copy, !importance.empty(), overrides);
    for (const auto & [name, values] : importance) {
        options.importance[name].assign(values.data(), values.data() + values.size());
    }
    for (const auto & [pattern, type] : tensor_types) {
        options.tensor_types.emplace_back(pattern, to_type(type));
    }
    options.allow_requantize = allow_requantize;
    options.keep_split = keep_split;
    options.threads = threads;
    py::gil_scoped_release release;
    llama::quantize_with_llama(input, output, options);
}

}  // namespace

void register_quantizer(py::module_ & module) {
    py::class_<TensorRule>(module, "TensorRule", "What llama.cpp decides about one tensor.")
        .def_readonly("may_quantize", &TensorRule::may_quantize,
                      "False where llama.cpp keeps the tensor's type.")
        .def_property_readonly(
            "wanted", [](const TensorRule & rule) { return engine::facts_of(rule.wanted).name; },
            "The type before a fallback for the row length.")
        .def_property_readonly(
            "type", [](const TensorRule & rule) { return engine::facts_of(rule.type).name; },
            "The type that llama.cpp writes.")
        .def_readonly("needs_importance", &TensorRule::needs_importance,
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
    module.def(
        "quantize_with_llama", &quantize_with_llama, py::arg("input"), py::arg("output"),
        py::arg("file_type"), py::kw_only(), py::arg("importance") = py::dict(),
        py::arg("tensor_types") = py::list(), py::arg("output_tensor_type") = py::none(),
        py::arg("token_embedding_type") = py::none(), py::arg("pure") = false,
        py::arg("quantize_output_tensor") = true, py::arg("copy") = false,
        py::arg("allow_requantize") = false, py::arg("keep_split") = false,
        py::arg("overrides") = KeyValues{}, py::arg("threads") = 0,
        "Runs llama_model_quantize, the reference that apex is compared with. Raises ModelError.");
}

}  // namespace apex::bind
