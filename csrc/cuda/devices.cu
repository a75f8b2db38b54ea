// Which GPUs there are, and how fast they copy.
#include <algorithm>

#include "cuda/arguments.h"
#include "cuda/runtime.h"

namespace apex::cuda {

bool is_built() {
    return true;
}

std::vector<Device> devices() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorInsufficientDriver) {  // also where there is none at all
        cudaGetLastError();
        throw DeviceError("no GPU was found: NVIDIA's driver is missing, or older than this build");
    }
    if (status != cudaSuccess || count == 0) {
        cudaGetLastError();
        throw DeviceError(std::string("no GPU was found: ") + cudaGetErrorString(status));
    }
    std::vector<Device> result;
    for (int i = 0; i < count; ++i) {
        use_device(i);
        cudaDeviceProp properties;
        check(cudaGetDeviceProperties(&properties, i), "the GPU does not answer");
        size_t free_bytes = 0;
        size_t total = 0;
        check(cudaMemGetInfo(&free_bytes, &total), "the GPU does not answer");
        int kilohertz = 0;
        check(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, i),
              "the GPU does not answer");
        cudaFuncAttributes attributes;
        const bool is_supported = cudaFuncGetAttributes(&attributes, row_kernel()) == cudaSuccess;
        cudaGetLastError();
        result.push_back({i, properties.name, properties.major, properties.minor, total, free_bytes,
                          properties.multiProcessorCount, 1e3 * kilohertz, is_supported});
    }
    return result;
}

HostMemory::HostMemory(size_t bytes) : bytes_(bytes) {
    check(cudaHostAlloc(&data_, std::max<size_t>(bytes, 1), cudaHostAllocPortable),
          "memory for copies to the GPU cannot be had");
}

HostMemory::~HostMemory() {
    cudaFreeHost(data_);
}

Bandwidth measure_bandwidth(int device, size_t bytes) {
    use_device(device);
    const HostMemory host(bytes);
    const DeviceMemory memory(2 * bytes);
    const Stream stream;
    const Event begin, end;
    const auto measure = [&](auto copy, double moved) {
        double best = 0;
        for (int round = 0; round < 5; ++round) {
            begin.record(stream);
            copy();
            end.record(stream);
            end.wait();
            best = std::max(best, moved / std::max(end.seconds_since(begin), 1e-9));
        }
        return best;
    };
    auto * const near = memory.as<unsigned char>();
    const auto size = static_cast<double>(bytes);
    stream.clear(near, 2 * bytes);
    return {measure([&] { stream.copy_in(near, host.data(), bytes); }, size),
            measure([&] { stream.copy_out(host.data(), near, bytes); }, size),
            measure(
                [&] {
                    check(cudaMemcpyAsync(near + bytes, near, bytes, cudaMemcpyDeviceToDevice,
                                          stream.get()),
                          "copying on the GPU failed");
                },
                2 * size)};
}

}  // namespace apex::cuda
