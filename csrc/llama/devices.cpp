#include "devices.h"

#include "guarded.h"

namespace apex::llama {

namespace {

bool is_gpu(ggml_backend_dev_t device) {
    const auto type = ggml_backend_dev_type(device);
    return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

}  // namespace

void find_devices() {
    ggml_backend_dev_count();
}

bool is_on_gpu(ggml_backend_buffer_type_t type) {
    ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
    return device != nullptr && is_gpu(device) && !ggml_backend_buft_is_host(type);
}

std::vector<std::string> gpu_backends() {
    std::vector<std::string> names;
    for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
        std::string name = ggml_backend_reg_name(ggml_backend_reg_get(i));
        if (name != "CPU") {
            names.push_back(std::move(name));
        }
    }
    return names;
}

std::vector<Device> gpu_devices() {
    find_devices();
    return guarded("a GPU does not answer", [](guard::Scope &) {
        std::vector<Device> devices;
        for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
            ggml_backend_dev_t device = ggml_backend_dev_get(i);
            if (!is_gpu(device)) {
                continue;
            }
            size_t free = 0, total = 0;
            ggml_backend_dev_memory(device, &free, &total);
            devices.push_back(
                {ggml_backend_dev_name(device), ggml_backend_dev_description(device), free, total});
        }
        return devices;
    });
}

}  // namespace apex::llama
