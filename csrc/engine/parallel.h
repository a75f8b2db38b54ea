// Threads that persist over calls: starting them would cost more than a small slab takes.
#pragma once

#include <cstdint>
#include <functional>

namespace apex::engine {

// The number of processors that this process may use.
int available_threads();

// Calls body(i) for every i in [0, count), on up to `threads` threads (0: all available), this one
// among them, in the exact floating-point mode. An exception stops the rest and is rethrown here;
// if there are several, that of the lowest i that threw. Calls from different threads take turns.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)> & body);

}  // namespace apex::engine
