// Which instruction set the kernels use: the best that this CPU runs, or the one that the
// environment variable APEX_ISA names.
#pragma once

#include <string>
#include <vector>

#include "isa/kernel_table.h"

namespace apex::dispatch {

// Names of what this CPU runs of what this build has, from the narrowest to the widest.
std::vector<std::string> available();

// What runs; its name is in the table. Decided once; throws std::invalid_argument each time if
// APEX_ISA names something else than one of `available`.
const KernelTable & kernels();

// One of `available` by name, for tests and measurements; throws std::invalid_argument.
const KernelTable & kernels(const std::string & isa);

}  // namespace apex::dispatch
