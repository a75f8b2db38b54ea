// The exceptions of C++ as Python sees them.
#pragma once

#include <pybind11/pybind11.h>

namespace apex::bind {

// Has upstream's aborts and log sent to csrc/guard, and adds the classes of exceptions to the
// module, whose functions then raise them.
void register_exceptions(pybind11::module_ & module);

}  // namespace apex::bind
