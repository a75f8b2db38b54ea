// The part of the CUDA runtime that csrc/cuda uses, on a processor: for tests on machines without a
// GPU (APEX_CUDA=EMULATED). Kernels run at once, one block after the other; copies are copies.
// Memory on the "device" is a buffer that exactly fits, so that sanitizers see what goes beyond it.
//
// APEX_EMULATED_DEVICES (1) and APEX_EMULATED_MEMORY (bytes of each) say what there is,
// APEX_EMULATED_HOST_MEMORY the largest piece of memory that can be locked for copies, and
// APEX_EMULATED_FAILURE=N lets device 0 be lost at the Nth launch.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace apex::emulated {

struct Machine {
    std::mutex mutex;
    std::map<void *, std::pair<size_t, int>> memory;  // bytes and device
    std::vector<size_t> used = std::vector<size_t>(64);
    std::atomic<long> launches{0};
    std::atomic<bool> lost{false};
};

inline Machine & machine() {
    static Machine * instance = new Machine;
    return *instance;
}

inline long setting(const char * name, long otherwise) {
    const char * text = std::getenv(name);
    return text == nullptr ? otherwise : std::atol(text);
}

inline thread_local int current_device = 0;
inline thread_local dim3 current_block;
inline thread_local std::vector<unsigned char> shared_memory;

}  // namespace apex::emulated

#define blockIdx ::apex::emulated::current_block

namespace apex {

// Shared memory holds what the last block left there.
inline void * emulated_shared_memory(size_t bytes) {
    auto & memory = emulated::shared_memory;
    memory.assign(bytes + 64, 0xa5);
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    return memory.data() + (64 - address % 64);
}

}  // namespace apex

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorDevicesUnavailable = 46,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
};

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
constexpr unsigned cudaHostAllocPortable = 1;
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventBlockingSync = 1;
using cudaStream_t = int *;
using cudaEvent_t = std::chrono::steady_clock::time_point *;

struct cudaDeviceProp {
    char name[256];
    int major, minor;
    int multiProcessorCount;
    size_t totalGlobalMem;
};

struct cudaFuncAttributes {
    size_t sharedSizeBytes;
};
enum cudaDeviceAttr { cudaDevAttrClockRate };

inline size_t emulated_total() {
    return static_cast<size_t>(apex::emulated::setting("APEX_EMULATED_MEMORY", 1l << 30));
}

inline const char * cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:                 return "no error";
        case cudaErrorMemoryAllocation:   return "out of memory";
        case cudaErrorDevicesUnavailable: return "the emulated device is lost";
        case cudaErrorNoDevice:           return "no CUDA-capable device is detected";
        case cudaErrorInvalidDevice:      return "invalid device ordinal";
        default:                          return "invalid argument";
    }
}

inline cudaError_t cudaGetDeviceCount(int * count) {
    *count = static_cast<int>(apex::emulated::setting("APEX_EMULATED_DEVICES", 1));
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
inline cudaError_t cudaSetDevice(int device) {
    int count = 0;
    cudaGetDeviceCount(&count);
    if (device < 0 || device >= count) {
        return cudaErrorInvalidDevice;
    }
    apex::emulated::current_device = device;
    return cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
inline bool emulated_is_lost() {
    return apex::emulated::current_device == 0 && apex::emulated::machine().lost;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp * properties, int device) {
    std::memset(properties, 0, sizeof(*properties));
    std::strcpy(properties->name, "emulated");
    properties->multiProcessorCount = 1;
    properties->totalGlobalMem = emulated_total();
    return cudaSetDevice(device);
}
inline cudaError_t cudaMemGetInfo(size_t * free_bytes, size_t * total) {
    auto & machine = apex::emulated::machine();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    *total = emulated_total();
    *free_bytes = *total - machine.used[static_cast<size_t>(apex::emulated::current_device)];
    return cudaSuccess;
}

inline cudaError_t emulated_allocate(void ** pointer, size_t bytes, int device) {
    auto & machine = apex::emulated::machine();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    if (device >= 0) {
        auto & used = machine.used[static_cast<size_t>(device)];
        if (emulated_is_lost()) {
            return cudaErrorDevicesUnavailable;
        }
        if (used + bytes > emulated_total()) {
            return cudaErrorMemoryAllocation;
        }
        used += bytes;
    } else if (bytes > static_cast<size_t>(
                           apex::emulated::setting("APEX_EMULATED_HOST_MEMORY", 1l << 40))) {
        return cudaErrorMemoryAllocation;
    }
    *pointer = std::malloc(bytes);
    std::memset(*pointer, 0xa5, bytes);
    machine.memory[*pointer] = {bytes, device};
    return cudaSuccess;
}
template <typename T>
cudaError_t cudaMalloc(T ** pointer, size_t bytes) {
    return emulated_allocate(reinterpret_cast<void **>(pointer), bytes,
                             apex::emulated::current_device);
}
template <typename T>
cudaError_t cudaHostAlloc(T ** pointer, size_t bytes, unsigned) {
    return emulated_allocate(reinterpret_cast<void **>(pointer), bytes, -1);
}
inline cudaError_t cudaFree(void * pointer) {
    auto & machine = apex::emulated::machine();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    const auto found = machine.memory.find(pointer);
    if (found != machine.memory.end()) {
        if (found->second.second >= 0) {
            machine.used[static_cast<size_t>(found->second.second)] -= found->second.first;
        }
        machine.memory.erase(found);
        std::free(pointer);
    }
    return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void * pointer) {
    return cudaFree(pointer);
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t * stream, unsigned) {
    *stream = nullptr;
    return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) {
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return emulated_is_lost() ? cudaErrorDevicesUnavailable : cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t * event, unsigned) {
    *event = new std::chrono::steady_clock::time_point;
    return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    *event = std::chrono::steady_clock::now();
    return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) {
    return cudaStreamSynchronize(nullptr);
}
inline cudaError_t cudaEventElapsedTime(float * milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = std::chrono::duration<float, std::milli>(*end - *begin).count();
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void * target, const void * source, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
    if (emulated_is_lost()) {
        return cudaErrorDevicesUnavailable;
    }
    std::memcpy(target, source, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void * target, int value, size_t bytes, cudaStream_t) {
    std::memset(target, value, bytes);
    return emulated_is_lost() ? cudaErrorDevicesUnavailable : cudaSuccess;
}

template <typename Function>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, Function *) {
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int * value, cudaDeviceAttr, int) {
    *value = 1000000;
    return cudaSuccess;
}

template <typename Arguments>
cudaError_t cudaLaunchKernel(void (*function)(Arguments), dim3 grid, dim3, void ** arguments,
                             size_t, cudaStream_t) {
    auto & machine = apex::emulated::machine();
    if (++machine.launches == apex::emulated::setting("APEX_EMULATED_FAILURE", -1)) {
        machine.lost = true;
    }
    if (emulated_is_lost()) {
        return cudaErrorDevicesUnavailable;
    }
    for (unsigned i = 0; i < grid.x; ++i) {
        apex::emulated::current_block = {i};
        function(*static_cast<Arguments *>(arguments[0]));
    }
    return cudaSuccess;
}
