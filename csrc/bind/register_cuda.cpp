#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <tuple>

#include "arguments.h"
#include "cuda/gpu.h"
#include "engine/types.h"
#include "register.h"

namespace apex::bind {

namespace {

using cuda::HostMemory;
using cuda::JobLimits;
using cuda::Quantizer;
using OptionalBuffer = std::optional<py::buffer>;
using Targets = std::vector<std::tuple<std::string, OptionalBuffer, py::buffer>>;

// A job of a call, with what has to stay alive for it.
struct Call {
    Call(const py::buffer & source, const std::string & source_type,
         const std::vector<py::ssize_t> & shape, const Targets & targets)
        : weights(to_weights(source, source_type, shape)) {
        const engine::Shape & extent = weights.shape;
        job = {weights.buffer.ptr, weights.type, extent.experts, extent.rows, extent.columns, {}};
        for (const auto & [name, importance, out] : targets) {
            const ggml_type type = to_type(name);
            if (extent.columns % engine::facts_of(type).block_weights != 0) {
                throw py::value_error("the rows are not whole blocks of " + name);
            }
            const auto bytes =
                static_cast<size_t>(extent.all_rows()) * ggml_row_size(type, extent.columns);
            importances.emplace_back(importance, extent);
            outputs.push_back(to_output(out, bytes));
            job.targets.push_back({type, importances.back().data(), outputs.back().ptr});
        }
    }

    Weights weights;
    std::vector<Importance> importances;
    std::vector<py::buffer_info> outputs;
    cuda::Job job;
};

std::shared_ptr<Quantizer> make_quantizer(int device, int slots, size_t source_bytes,
                                          size_t target_bytes, size_t importance_values,
                                          size_t rows, size_t dequantized_weights, size_t targets) {
    const JobLimits limits{source_bytes, target_bytes,        importance_values,
                           rows,         dequantized_weights, targets};
    py::gil_scoped_release release;
    return std::make_shared<Quantizer>(device, slots, limits);
}

void submit(Quantizer & quantizer, int slot, const py::buffer & source,
            const std::string & source_type, const std::vector<py::ssize_t> & shape,
            const Targets & targets) {
    const Call call(source, source_type, shape, targets);
    py::gil_scoped_release release;
    quantizer.submit(slot, call.job);
}

double time_kernels(Quantizer & quantizer, int slot, const py::buffer & source,
                    const std::string & source_type, const std::vector<py::ssize_t> & shape,
                    const Targets & targets, int repeats) {
    const Call call(source, source_type, shape, targets);
    py::gil_scoped_release release;
    return quantizer.time_kernels(slot, call.job, repeats);
}

py::array_t<float> dequantize(const py::buffer & source, const std::string & type, int device) {
    const Weights weights = to_weights(source, type, std::nullopt);
    std::vector<py::ssize_t> shape = weights.rows_shape;
    shape.push_back(static_cast<py::ssize_t>(weights.shape.columns));
    py::array_t<float> result(shape);
    float * target = result.mutable_data();
    py::gil_scoped_release release;
    cuda::dequantize(device, weights.buffer.ptr, weights.type,
                     weights.shape.all_rows() * weights.shape.columns, target);
    return result;
}

py::array_t<uint8_t> make_host_memory(size_t bytes) {
    auto memory = [&] {
        py::gil_scoped_release release;
        return std::make_unique<HostMemory>(bytes);
    }();
    void * data = memory->data();
    const py::capsule owner(memory.release(),
                            [](void * pointer) { delete static_cast<HostMemory *>(pointer); });
    return py::array_t<uint8_t>(static_cast<py::ssize_t>(bytes), static_cast<uint8_t *>(data),
                                owner);
}

void register_structs(py::module_ & module) {
    using cuda::Bandwidth;
    using cuda::Device;
    using cuda::Outcome;
    py::class_<Device>(module, "Device", "A GPU.")
        .def_readonly("index", &Device::index)
        .def_readonly("name", &Device::name)
        .def_readonly("major", &Device::major, "Of its compute capability.")
        .def_readonly("minor", &Device::minor)
        .def_readonly("memory", &Device::memory, "In bytes.")
        .def_readonly("free_memory", &Device::free_memory)
        .def_readonly("processors", &Device::processors, "Streaming multiprocessors.")
        .def_readonly("clock", &Device::clock, "Of them at most, in Hz.")
        .def_readonly("is_supported", &Device::is_supported,
                      "Whether this build has kernels for it.");
    py::class_<Outcome>(module, "Outcome", "What became of a job on a GPU; times in seconds.")
        .def_readonly(
            "is_sound", &Outcome::is_sound,
            "Otherwise a weight is NaN, infinite or too large for a target, and all bytes are "
            "void.")
        .def_readonly("copying_in", &Outcome::copying_in)
        .def_readonly("computing", &Outcome::computing)
        .def_readonly("copying_out", &Outcome::copying_out);
    py::class_<Bandwidth>(module, "Bandwidth", "Measured copies, in bytes per second.")
        .def_readonly("to_device", &Bandwidth::to_device)
        .def_readonly("from_device", &Bandwidth::from_device)
        .def_readonly("on_device", &Bandwidth::on_device, "Read and written bytes together.");
}

void register_device_quantizer(py::module_ & module) {
    py::class_<Quantizer, std::shared_ptr<Quantizer>>(
        module, "DeviceQuantizer",
        "A GPU with slots for several jobs, whose copies and kernels overlap. The limits are those "
        "of the largest job: target_bytes and importance_values are sums over its targets, and "
        "targets says how many it has. For one thread at a time. Raises DeviceError.")
        .def(py::init(&make_quantizer), py::arg("device"), py::arg("slots"), py::kw_only(),
             py::arg("source_bytes"), py::arg("target_bytes"), py::arg("importance_values") = 0,
             py::arg("rows"), py::arg("dequantized_weights") = 0, py::arg("targets") = 1)
        .def("submit", &submit, py::arg("slot"), py::arg("src"), py::arg("src_type"),
             py::arg("shape"), py::arg("targets"),
             "Begins with a job and returns. A target is (type, importance, out): float32 of "
             "(columns,) or (experts, columns), or None, and memory for the bytes of the rows. src "
             "and every out must stay as they are until wait(); only memory of host_memory() is "
             "copied while other work goes on. Raises DeviceError, and ValueError where there is "
             "no kernel for a target, or the job is larger than the limits.")
        .def("wait", &Quantizer::wait, py::arg("slot"), py::call_guard<py::gil_scoped_release>(),
             "Waits for the job in a slot; what became of it, which is sound only if all of its "
             "targets are. Raises DeviceError; every out is then void.")
        .def("time_kernels", &time_kernels, py::arg("slot"), py::arg("src"), py::arg("src_type"),
             py::arg("shape"), py::arg("targets"), py::arg("repeats"),
             "Runs the kernels of the last job again on what lies on the GPU: the fastest, in "
             "seconds.");
}

}  // namespace

void register_cuda(py::module_ & module) {
    register_structs(module);
    register_device_quantizer(module);
    module.def("cuda_is_built", &cuda::is_built, "Whether this build has kernels for GPUs.");
    module.def("devices", &cuda::devices,
               "The GPUs. Raises DeviceError, which says why, where there is none.");
    module.def(
        "can_quantize_on_device",
        [](const std::string & source, const std::string & type, bool weighted) {
            return cuda::can_quantize(to_type(source), to_type(type), weighted);
        },
        py::arg("src_type"), py::arg("type"), py::arg("weighted"),
        "Whether there is a kernel for GPUs from weights of one type to another.");
    module.def("dequantize_on_device", &dequantize, py::arg("src"), py::arg("src_type"),
               py::arg("device"), "dequantize() on a GPU. Raises DeviceError.");
    module.def("host_memory", &make_host_memory, py::arg("bytes"),
               "A uint8 array that GPUs copy from and to by themselves. Raises DeviceError.");
    module.def("measure_bandwidth", &cuda::measure_bandwidth, py::arg("device"), py::arg("bytes"),
               py::call_guard<py::gil_scoped_release>(), "How fast a GPU copies.");
}

}  // namespace apex::bind
