// Runs a kernel on the processor, one thread after the other from barrier to barrier.
#pragma once

#include "program.h"

namespace ptx {

// Thread blocks run one after the other. What PTX leaves open, above all the order of threads
// between two barriers, is one of the two orders here.
struct Launch {
    uint32_t blocks;
    uint32_t threads;  // per block
    size_t shared_bytes;
    bool backwards;  // the last thread first
};

// Throws Error where the kernel does what a GPU would not forgive.
Hazards run(const Kernel & kernel, const Launch & launch, const std::vector<unsigned char> & given,
            const GlobalMemory & memory);

// The rest is for operations.

enum class State { running, at_barrier, finished };

struct Thread {
    std::vector<uint64_t> registers;
    PrivateMemory local;
    PrivateMemory parameters;
    SharedMemory * shared;
    const GlobalMemory * global;
    uint32_t index;
    size_t next = 0;  // instruction
    uint64_t branches = 0;
    State state = State::running;
};

}  // namespace ptx
