#include "machine.h"

#include <algorithm>

namespace ptx {

namespace {

void run_to_barrier(const Kernel & kernel, Thread & thread) {
    thread.state = State::running;
    try {
        while (thread.state == State::running) {
            const Instruction & instruction = kernel.code[thread.next++];
            if (((thread.registers[instruction.guard] & 1) != 0) == instruction.if_guard_is) {
                instruction.operation(instruction, thread);
            }
        }
    } catch (const Error & error) {
        throw Error(kernel.text[thread.next - 1] + ": " + error.what() + " (thread " +
                    std::to_string(thread.index) + " of " + kernel.name + ")");
    }
}

std::vector<Thread> begin_threads(const Kernel & kernel, const Launch & launch, uint32_t block,
                                  const std::vector<unsigned char> & given, SharedMemory & shared,
                                  const GlobalMemory & memory) {
    std::vector<Thread> threads;
    for (uint32_t index = 0; index < launch.threads; ++index) {
        threads.push_back({kernel.registers,
                           PrivateMemory(std::vector<unsigned char>(kernel.local_bytes, 0xa5)),
                           PrivateMemory(given), &shared, &memory, index});
        threads.back().registers[kThread] = index;
        threads.back().registers[kThreads] = launch.threads;
        threads.back().registers[kBlock] = block;
        threads.back().registers[kTrue] = 1;
    }
    return threads;
}

// Where only some threads come to a barrier, the others would wait for ever, or worse.
void check_that_all_are_at_the_same_place(const Kernel & kernel,
                                          const std::vector<Thread> & threads) {
    for (const Thread & thread : threads) {
        if (thread.state != threads[0].state ||
            (thread.state == State::at_barrier && thread.next != threads[0].next)) {
            throw Error("threads 0 and " + std::to_string(thread.index) + " of " + kernel.name +
                        " wait at different places");
        }
    }
}

}  // namespace

Hazards run(const Kernel & kernel, const Launch & launch, const std::vector<unsigned char> & given,
            const GlobalMemory & memory) {
    if (given.size() != kernel.parameter_bytes) {
        throw Error(kernel.name + " takes arguments of " + std::to_string(kernel.parameter_bytes) +
                    " bytes");
    }
    if (launch.threads == 0 || launch.threads > kernel.most_threads) {
        throw Error(kernel.name + " takes up to " + std::to_string(kernel.most_threads) +
                    " threads");
    }
    Hazards hazards;
    for (uint32_t block = 0; block < launch.blocks; ++block) {
        SharedMemory shared(launch.shared_bytes, hazards);
        std::vector<Thread> threads = begin_threads(kernel, launch, block, given, shared, memory);
        while (threads[0].state != State::finished) {
            for (uint32_t i = 0; i < launch.threads; ++i) {
                run_to_barrier(kernel, threads[launch.backwards ? launch.threads - 1 - i : i]);
            }
            check_that_all_are_at_the_same_place(kernel, threads);
            shared.forget_touches();
        }
    }
    return hazards;
}

}  // namespace ptx
