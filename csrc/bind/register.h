// One function per room: what Python sees of it.
#pragma once

#include <pybind11/pybind11.h>

namespace apex::bind {

void register_types(pybind11::module_ & module);
void register_gguf(pybind11::module_ & module);
void register_engine(pybind11::module_ & module);
void register_llama(pybind11::module_ & module);

}  // namespace apex::bind
