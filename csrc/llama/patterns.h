// The patterns of --tensor-type: regular expressions as C++ and llama.cpp read them (ECMAScript).
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace apex::llama {

// For each name the index of the first pattern that is found in it (std::regex_search), or -1.
// Calls `check` now and then, which may throw to end the search. Throws std::invalid_argument for
// a pattern that is malformed, too long, or takes too many steps to be looked for.
std::vector<int> first_match(const std::vector<std::string> & patterns,
                             const std::vector<std::string> & names,
                             const std::function<void()> & check);

}  // namespace apex::llama
