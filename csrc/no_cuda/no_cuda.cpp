// The interface of csrc/cuda in a build without CUDA: there are no devices.
#include "cuda/gpu.h"

namespace apex::cuda {

namespace {

[[noreturn]] void refuse() {
    throw DeviceError("this build of apex has no CUDA kernels");
}

}  // namespace

bool is_built() {
    return false;
}

std::vector<Device> devices() {
    refuse();
}

bool can_quantize(ggml_type, ggml_type, bool) {
    return false;
}

HostMemory::HostMemory(size_t bytes) : bytes_(bytes) {
    refuse();
}

HostMemory::~HostMemory() = default;

size_t JobLimits::device_bytes() const {
    return 0;
}

struct Quantizer::Implementation {};

Quantizer::Quantizer(int, int, const JobLimits &) {
    refuse();
}

Quantizer::~Quantizer() = default;

void Quantizer::submit(int, const Job &) {
    refuse();
}

Outcome Quantizer::wait(int) {
    refuse();
}

double Quantizer::time_kernels(int, const Job &, int) {
    refuse();
}

void dequantize(int, const void *, ggml_type, int64_t, float *) {
    refuse();
}

Bandwidth measure_bandwidth(int, size_t) {
    refuse();
}

struct Sums::Implementation {};

Sums::Sums(int) {
    refuse();
}

Sums::~Sums() = default;

void Sums::begin(const std::string &, const Entry &) {
    refuse();
}

void Sums::add(const std::string &, const DeviceActivations &) {
    refuse();
}

void Sums::add_from_host(const std::string &, const DeviceActivations &, size_t, size_t) {
    refuse();
}

Sums::Entry Sums::read(const std::string &, bool) const {
    refuse();
}

}  // namespace apex::cuda
