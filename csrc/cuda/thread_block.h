// The threads of one thread block, as the kernels see them: they share the items of a step, and
// wait for each other after it. The items of a step must not depend on each other's order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace apex {
namespace {

#if defined(__CUDACC__)

class ThreadBlock {
  public:
    __device__ uint32_t index() const { return blockIdx.x; }
    __device__ int thread() const { return static_cast<int>(threadIdx.x); }

    template <typename Function>
    __device__ void each(int count, Function run) const {
        for (int item = thread(); item < count; item += static_cast<int>(blockDim.x)) {
            run(item);
        }
        __syncthreads();
    }

    // Adds to what lies in shared memory; returns what was there. Others may do so at the same
    // time.
    __device__ int add(int * counter, int count) const { return atomicAdd(counter, count); }

    // Tells the compiler that a pointer, itself loaded from memory, points into the device's
    // memory.
    __device__ void assume_global(const void * pointer) const {
        __builtin_assume(__isGlobal(pointer));
    }

    // Their shared memory, whose size is given at the launch.
    template <typename Shared>
    __device__ Shared & shared() const {
        extern __shared__ __align__(16) unsigned char memory[];
        return *reinterpret_cast<Shared *>(memory);
    }
};

#else  // compiled for a processor, in tests: one thread, and every second thread block goes
       // backwards

class ThreadBlock {
  public:
    uint32_t index() const { return blockIdx.x; }
    int thread() const { return 0; }

    template <typename Function>
    void each(int count, Function run) const {
        for (int i = 0; i < count; ++i) {
            run(index() % 2 == 0 ? i : count - 1 - i);
        }
    }

    void assume_global(const void *) const {}

    int add(int * counter, int count) const {
        *counter += count;
        return *counter - count;
    }

    template <typename Shared>
    Shared & shared() const {
        return *static_cast<Shared *>(emulated_shared_memory(sizeof(Shared)));
    }
};

#endif

}  // namespace
}  // namespace apex
