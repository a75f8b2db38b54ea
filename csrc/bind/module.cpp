#include <ggml.h>
#include <pybind11/pybind11.h>

#include <exception>
#include <system_error>

#include "cuda/gpu.h"
#include "engine/rows.h"
#include "gguf/header.h"
#include "guard/guard.h"
#include "llama/context.h"
#include "llama/library.h"
#include "llama/type_rules.h"
#include "register.h"
#include "statistics/squares.h"

namespace py = pybind11;

namespace {

// BadDataError, a ValueError with the attribute `row`. The module keeps it alive.
PyObject * bad_data_error = nullptr;

void translate(std::exception_ptr pointer) {
    try {
        if (pointer) {
            std::rethrow_exception(pointer);
        }
    } catch (const apex::engine::BadData & error) {
        py::object instance = py::handle(bad_data_error)(error.what());
        instance.attr("row") = error.row;
        PyErr_SetObject(bad_data_error, instance.ptr());
    } catch (const apex::llama::Interrupted &) {
        // The exception that a signal handler raised is set already.
    } catch (const std::system_error & error) {
        py::set_error(PyExc_OSError, py::make_tuple(error.code().value(), error.code().message()));
    }
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() =
        "Native parts of apex: tensor types, GGUF headers, rows of weights, llama.cpp's rules.";
    module.attr("__version__") = APEX_VERSION;
    module.attr("llama_version") = apex::llama::version();
    module.attr("ggml_version") = ggml_version();
    apex::guard::install();
    apex::llama::install_log();
    py::register_local_exception<apex::gguf::HeaderError>(module, "HeaderError", PyExc_ValueError);
    py::exception<apex::engine::BadData> bad_data(module, "BadDataError", PyExc_ValueError);
    bad_data.attr("row") = 0;
    bad_data_error = bad_data.ptr();
    py::register_local_exception<apex::llama::ModelError>(module, "ModelError", PyExc_RuntimeError);
    py::register_local_exception<apex::guard::UpstreamError>(module, "UpstreamError",
                                                             PyExc_RuntimeError);
    py::register_local_exception<apex::statistics::NonFinite>(module, "NonFiniteError",
                                                              PyExc_ArithmeticError);
    py::register_local_exception<apex::cuda::DeviceError>(module, "DeviceError",
                                                          PyExc_RuntimeError);
    py::register_local_exception_translator(translate);
    apex::bind::register_types(module);
    apex::bind::register_gguf(module);
    apex::bind::register_engine(module);
    apex::bind::register_quantizer(module);
    apex::bind::register_statistics(module);
    apex::bind::register_cuda(module);
    apex::bind::register_inference(module);
}
