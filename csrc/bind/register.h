// One function per topic: what Python sees of it.
#pragma once

#include <pybind11/pybind11.h>

namespace apex::bind {

void register_types(pybind11::module_ & module);
void register_gguf(pybind11::module_ & module);
void register_engine(pybind11::module_ & module);
void register_rounding(pybind11::module_ & module);
void register_quantizer(pybind11::module_ & module);
void register_statistics(pybind11::module_ & module);
void register_cuda(pybind11::module_ & module);
void register_inference(pybind11::module_ & module);
void register_probing(pybind11::module_ & module);

}  // namespace apex::bind
