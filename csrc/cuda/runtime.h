// Memory, streams and errors of the CUDA runtime as objects.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <utility>

#include "cuda/gpu.h"

namespace apex::cuda {

inline void check(cudaError_t status, const char * what) {
    if (status != cudaSuccess) {
        cudaGetLastError();  // an error that does not last must not meet the next call
        throw DeviceError(std::string(what) + ": " + cudaGetErrorString(status));
    }
}

inline void use_device(int device) {
    check(cudaSetDevice(device), "the GPU cannot be used");
}

// Memory on the device that is current when it is made.
class DeviceMemory {
  public:
    DeviceMemory() = default;
    explicit DeviceMemory(size_t bytes) {
        if (bytes > 0) {
            check(cudaMalloc(&data_, bytes), "the GPU's memory is too small");
        }
    }
    ~DeviceMemory() { cudaFree(data_); }
    DeviceMemory(DeviceMemory && other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
    DeviceMemory & operator=(DeviceMemory && other) noexcept {
        std::swap(data_, other.data_);
        return *this;
    }

    template <typename T>
    T * as() const {
        return reinterpret_cast<T *>(data_);
    }

  private:
    unsigned char * data_ = nullptr;
};

class Stream {
  public:
    Stream() {
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
              "a stream cannot be made");
    }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream &) = delete;
    Stream & operator=(const Stream &) = delete;

    cudaStream_t get() const { return stream_; }

    void copy_in(void * target, const void * source, size_t bytes) const {
        check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream_),
              "copying to the GPU failed");
    }
    void copy_out(void * target, const void * source, size_t bytes) const {
        check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, stream_),
              "copying from the GPU failed");
    }
    void clear(void * target, size_t bytes) const {
        check(cudaMemsetAsync(target, 0, bytes, stream_), "clearing the GPU's memory failed");
    }
    void wait() const { check(cudaStreamSynchronize(stream_), "the GPU failed"); }

    // Runs a kernel on `blocks` thread blocks of `threads` threads. `arguments` are copied.
    template <typename Arguments>
    void launch(void (*function)(Arguments), uint32_t blocks, int threads, size_t shared_bytes,
                Arguments arguments) const {
        if (blocks == 0) {
            return;
        }
        void * list[] = {&arguments};
        dim3 grid, block;
        grid.x = blocks;
        block.x = static_cast<unsigned>(threads);
        check(cudaLaunchKernel(function, grid, block, list, shared_bytes, stream_),
              "a kernel could not be launched");
    }

  private:
    cudaStream_t stream_ = nullptr;
};

// A moment in a stream.
class Event {
  public:
    // With timing; waiting leaves the processor to others.
    Event() {
        check(cudaEventCreateWithFlags(&event_, cudaEventBlockingSync), "an event cannot be made");
    }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event &) = delete;
    Event & operator=(const Event &) = delete;

    void record(const Stream & stream) const {
        check(cudaEventRecord(event_, stream.get()), "the GPU failed");
    }
    void wait() const { check(cudaEventSynchronize(event_), "the GPU failed"); }

    double seconds_since(const Event & earlier) const {
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, earlier.event_, event_), "the GPU failed");
        return milliseconds / 1000.0;
    }

  private:
    cudaEvent_t event_ = nullptr;
};

}  // namespace apex::cuda
