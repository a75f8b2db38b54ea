#include <ggml.h>
#include <pybind11/pybind11.h>

#include "exceptions.h"
#include "llama/library.h"
#include "register.h"

namespace py = pybind11;

PYBIND11_MODULE(_core, module) {
    module.doc() =
        "Native parts of apex: tensor types, GGUF headers, rows of weights, llama.cpp's rules.";
    module.attr("__version__") = APEX_VERSION;
    module.attr("llama_version") = apex::llama::version();
    module.attr("ggml_version") = ggml_version();
    apex::bind::register_exceptions(module);
    apex::bind::register_types(module);
    apex::bind::register_gguf(module);
    apex::bind::register_engine(module);
    apex::bind::register_rounding(module);
    apex::bind::register_quantizer(module);
    apex::bind::register_statistics(module);
    apex::bind::register_cuda(module);
    apex::bind::register_inference(module);
    apex::bind::register_probing(module);
}
