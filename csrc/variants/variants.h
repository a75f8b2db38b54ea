// Which of the variants of upstream's CPU backend runs models. In a build for any CPU: the widest
// that this one runs, or the one that the environment variable APEX_CPU_VARIANT names. A build for
// this machine has one backend, called native.
#pragma once

#include <string>
#include <vector>

namespace apex::variants {

// What this CPU runs of what this build has, from the narrowest to the widest.
std::vector<std::string> available();

// What runs. Decided once; throws std::invalid_argument each time if APEX_CPU_VARIANT names
// something else than one of `available`.
std::string active();

}  // namespace apex::variants
