#include "exceptions.h"

#include <exception>
#include <system_error>

#include "cuda/gpu.h"
#include "engine/rows.h"
#include "gguf/header.h"
#include "guard/guard.h"
#include "llama/context.h"
#include "llama/library.h"
#include "llama/type_rules.h"
#include "statistics/squares.h"

namespace py = pybind11;

namespace apex::bind {

namespace {

// BadDataError, a ValueError with the attribute `row`. The module keeps it alive.
PyObject * bad_data_error = nullptr;

void translate(std::exception_ptr pointer) {
    try {
        if (pointer) {
            std::rethrow_exception(pointer);
        }
    } catch (const engine::BadData & error) {
        py::object instance = py::handle(bad_data_error)(error.what());
        instance.attr("row") = error.row;
        PyErr_SetObject(bad_data_error, instance.ptr());
    } catch (const llama::Interrupted &) {
        // The exception that a signal handler raised is set already.
    } catch (const std::system_error & error) {
        py::set_error(PyExc_OSError, py::make_tuple(error.code().value(), error.code().message()));
    }
}

}  // namespace

void register_exceptions(py::module_ & module) {
    guard::install();
    llama::install_log();
    py::register_local_exception<gguf::HeaderError>(module, "HeaderError", PyExc_ValueError);
    py::exception<engine::BadData> bad_data(module, "BadDataError", PyExc_ValueError);
    bad_data.attr("row") = 0;
    bad_data_error = bad_data.ptr();
    py::register_local_exception<llama::ModelError>(module, "ModelError", PyExc_RuntimeError);
    py::register_local_exception<guard::UpstreamError>(module, "UpstreamError", PyExc_RuntimeError);
    py::register_local_exception<statistics::NonFinite>(module, "NonFiniteError",
                                                        PyExc_ArithmeticError);
    py::register_local_exception<cuda::DeviceError>(module, "DeviceError", PyExc_RuntimeError);
    py::register_local_exception_translator(translate);
}

}  // namespace apex::bind
