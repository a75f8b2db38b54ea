// The GPUs that models can be run on.
#pragma once

#include <ggml-backend.h>

#include <cstdint>
#include <string>
#include <vector>

namespace apex::llama {

struct Device {
    std::string name;         // ggml's, such as CUDA0
    std::string description;  // the maker's
    uint64_t free = 0, total = 0;
};

// The GPU backends of this build, such as CUDA; none in a build for the CPU alone.
std::vector<std::string> gpu_backends();

// The GPUs that they found, with their memory in bytes. Throws ModelError where one does not
// answer.
std::vector<Device> gpu_devices();

// Whether its buffers take a GPU's own memory. Neither do the host's buffers that a GPU reads, nor
// the CPU's own forms of weights.
bool is_on_gpu(ggml_backend_buffer_type_t type);

// Has every backend look for its devices. A backend that finds no driver logs that as an error,
// which is none of what is done next: call this outside of a guard::Scope.
void find_devices();

}  // namespace apex::llama
