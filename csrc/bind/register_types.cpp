#include <pybind11/stl.h>

#include "engine/types.h"
#include "llama/type_rules.h"
#include "register.h"

namespace apex::bind {

namespace py = pybind11;

void register_types(py::module_ & module) {
    using engine::TypeFacts;
    py::class_<TypeFacts>(module, "TensorType", "What ggml knows about a tensor type.")
        .def_readonly("name", &TypeFacts::name, "Upper-case name, as in Q4_K.")
        .def_property_readonly(
            "id", [](const TypeFacts & facts) { return static_cast<int>(facts.type); },
            "ggml's number of the type.")
        .def_readonly("block_weights", &TypeFacts::block_weights, "Weights in a block.")
        .def_readonly("block_bytes", &TypeFacts::block_bytes, "Bytes of a block.")
        .def_readonly("is_quantized", &TypeFacts::is_quantized)
        .def_readonly("has_quantizer", &TypeFacts::has_quantizer, "quantize() can write the type.")
        .def_readonly("has_dequantizer", &TypeFacts::has_dequantizer,
                      "dequantize() can read the type.")
        .def_readonly("needs_importance", &TypeFacts::needs_importance,
                      "quantize() refuses to write the type without an importance.")
        .def("__repr__", [](const TypeFacts & facts) { return "<TensorType " + facts.name + ">"; });
    module.def(
        "tensor_types", [] { return engine::type_facts(); },
        "Every tensor type of this ggml, in the order of its numbers.");

    using llama::FileType;
    py::class_<FileType>(module, "FileType", "A llama.cpp file type, such as Q4_K_M.")
        .def_readonly("name", &FileType::name, "Name as llama-quantize spells it.")
        .def_property_readonly(
            "id", [](const FileType & type) { return static_cast<int>(type.type); },
            "The value of general.file_type.")
        .def_property_readonly(
            "default_type",
            [](const FileType & type) { return engine::facts_of(type.default_type).name; },
            "The tensor type where none of the file type's rules says otherwise.")
        .def("__repr__",
             [](const FileType & type) { return "<FileType " + std::string(type.name) + ">"; });
    module.def(
        "file_types", [] { return llama::file_types(); },
        "Every file type that llama-quantize writes, from the largest to the smallest.");
}

}  // namespace apex::bind
