#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "arguments.h"
#include "engine/types.h"
#include "evaluate/reference.h"
#include "llama/context.h"
#include "llama/weights.h"
#include "logits.h"
#include "register.h"

namespace apex::bind {

namespace {

using evaluate::Reference;
using llama::Context;
using llama::Model;
using llama::Weights;

evaluate::Logits checked(const Reference & reference, const Context & context) {
    const evaluate::Logits logits = logits_of(context);
    if (logits.vocabulary != reference.vocabulary()) {
        throw py::value_error("the vocabularies are of different sizes");
    }
    return logits;
}

void register_weights(py::module_ & module) {
    py::class_<Weights>(module, "Weights",
                        "The weights of a model that was loaded as replaceable, to be changed "
                        "while nothing runs it.")
        .def(py::init<std::shared_ptr<Model>>(), py::arg("model"))
        .def(
            "replace",
            [](Weights & weights, const std::string & name, const std::string & type,
               const py::buffer & data) {
                const py::buffer_info buffer = data.request();
                if (!PyBuffer_IsContiguous(buffer.view(), 'C')) {
                    throw py::value_error("the bytes must be contiguous");
                }
                const ggml_type into = to_type(type);
                py::gil_scoped_release release;
                weights.replace(name, into, buffer.ptr,
                                static_cast<size_t>(buffer.size * buffer.itemsize));
            },
            py::arg("name"), py::arg("type"), py::arg("data"),
            "Make a tensor be of a type, with these bytes. The model then computes as one that was "
            "loaded from a file with them. Raises ValueError where the model has no such tensor, "
            "or the bytes are not those of its shape, or more than the file's.")
        .def(
            "read",
            [](const Weights & weights, const std::string & name) {
                const std::vector<char> bytes = weights.read(name);
                return py::array_t<uint8_t>(static_cast<py::ssize_t>(bytes.size()),
                                            reinterpret_cast<const uint8_t *>(bytes.data()));
            },
            py::arg("name"), "uint8: a copy of the bytes that a tensor has now.")
        .def(
            "type",
            [](const Weights & weights, const std::string & name) {
                return engine::facts_of(weights.type(name)).name;
            },
            py::arg("name"), "The type that a tensor has now.");
}

void register_reference(py::module_ & module) {
    py::class_<Reference>(
        module, "Reference",
        "The distributions of one model at many positions, to compare others with.")
        .def(py::init<int64_t, int64_t>(), py::arg("vocabulary"), py::arg("top") = 0,
             "top: how many tokens are kept of each position, beside what all others have "
             "together; 0 for all, which is exact.")
        .def_static("row_bytes", &Reference::row_bytes, py::arg("vocabulary"), py::arg("top"),
                    "Bytes of memory for each position.")
        .def_property_readonly("rows", &Reference::rows, "How many positions are kept.")
        .def(
            "add",
            [](Reference & reference, const Context & context, const Indices & rows, int threads) {
                const evaluate::Logits logits = checked(reference, context);
                const std::vector<int64_t> which = to_rows(rows, logits);
                py::gil_scoped_release release;
                reference.add(logits, which, to_threads(threads));
            },
            py::arg("context"), py::arg("rows"), py::arg("threads") = 0,
            "Append rows of the last logits of a context.")
        .def(
            "diverge",
            [](const Reference & reference, int64_t first, const Context & context,
               const Indices & rows, int threads) {
                const evaluate::Logits logits = checked(reference, context);
                const std::vector<int64_t> which = to_rows(rows, logits);
                if (first < 0 || first + rows.size() > reference.rows()) {
                    throw py::value_error("there are not as many positions");
                }
                py::array_t<double> result(static_cast<py::ssize_t>(which.size()));
                double * values = result.mutable_data();
                py::gil_scoped_release release;
                reference.diverge(first, logits, which, to_threads(threads), values);
                return result;
            },
            py::arg("first"), py::arg("context"), py::arg("rows"), py::arg("threads") = 0,
            "float64: KL divergence in nats of the kept positions, from `first` on, to rows of "
            "the last logits of a context.");
}

}  // namespace

void register_probing(py::module_ & module) {
    register_weights(module);
    register_reference(module);
}

}  // namespace apex::bind
