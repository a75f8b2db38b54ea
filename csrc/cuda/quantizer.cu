// Slabs of rows on their way through a GPU: each in a stream of its own, so that the copies of one
// overlap with the kernels of another.
#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "cuda/arguments.h"
#include "cuda/runtime.h"
#include "engine/fp_environment.h"

namespace apex::cuda {

namespace {

const std::vector<QuantizeKernel> & all_kernels() {
    static const std::vector<QuantizeKernel> kernels = [] {
        std::vector<QuantizeKernel> result;
        for (auto family : {small_kernels, q2_q3_kernels, q4_q5_kernels, q6_kernels, iq4_kernels,
                            iq3_kernels, iq2_kernels, iq1_kernels}) {
            const std::vector<QuantizeKernel> some = family();
            result.insert(result.end(), some.begin(), some.end());
        }
        return result;
    }();
    return kernels;
}

const QuantizeKernel * find_kernel(ggml_type type, bool weighted) {
    for (const QuantizeKernel & kernel : all_kernels()) {
        if (kernel.type == type && kernel.weighted == weighted) {
            return &kernel;
        }
    }
    return nullptr;
}

const DequantizeKernel * find_dequantizer(ggml_type type) {
    static const std::vector<DequantizeKernel> kernels = dequantize_kernels();
    for (const DequantizeKernel & kernel : kernels) {
        if (kernel.type == type) {
            return &kernel;
        }
    }
    return nullptr;
}

std::optional<Source> to_source(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:  return Source::f32;
        case GGML_TYPE_F16:  return Source::f16;
        case GGML_TYPE_BF16: return Source::bf16;
        default:             return std::nullopt;
    }
}

uint32_t blocks_for(int64_t items, int64_t per_block) {
    return static_cast<uint32_t>((items + per_block - 1) / per_block);
}

void launch_dequantizer(const Stream & stream, const DequantizeKernel & kernel,
                        const uint8_t * source, int64_t weights, float * target) {
    const auto eights = static_cast<uint32_t>(weights / 8);
    stream.launch(kernel.function, blocks_for(eights, kThreads), kThreads, 0,
                  DequantizeArguments{source, target, eights});
}

// What the formats look up, copied once per device.
class Tables final : public TableMemory {
  public:
    const void * of(const QuantizeKernel & kernel) {
        auto & found = known_[kernel.tables];
        if (found == nullptr) {
            const engine::FpEnvironment exact;  // the tables are made on first use
            const std::vector<unsigned char> bytes = kernel.tables(*this);
            found = copy(bytes.data(), bytes.size());
        }
        return found;
    }

    const void * copy(const void * data, size_t bytes) override {
        DeviceMemory memory(bytes);
        stream_.copy_in(memory.as<void>(), data, bytes);
        stream_.wait();
        memory_.push_back(std::move(memory));
        return memory_.back().as<void>();
    }

  private:
    Stream stream_;
    std::map<MakeTables, const void *> known_;
    std::vector<DeviceMemory> memory_;
};

// Every part of a slot's memory begins at a multiple of this.
constexpr size_t kAlignment = 256;

size_t aligned(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Room for one slab, on the device and for what accompanies it on the host.
struct Slot {
    explicit Slot(const SlabLimits & limits)
        : memory(limits.device_bytes()),
          importance_on_host(limits.importance_values * sizeof(float)),
          flags_on_host(sizeof(Flags)) {
        auto * next = memory.as<unsigned char>();
        const auto take = [&](size_t bytes) { return std::exchange(next, next + aligned(bytes)); };
        source = take(limits.source_bytes);
        target = take(limits.target_bytes);
        importance = reinterpret_cast<float *>(take(limits.importance_values * sizeof(float)));
        mean_squares = reinterpret_cast<float *>(take(limits.rows * sizeof(float)));
        dequantized = reinterpret_cast<float *>(take(limits.dequantized_weights * sizeof(float)));
        flags = reinterpret_cast<Flags *>(take(sizeof(Flags)));
    }

    DeviceMemory memory;
    HostMemory importance_on_host, flags_on_host;
    unsigned char * source;
    unsigned char * target;
    float * importance;
    float * mean_squares;
    float * dequantized;
    Flags * flags;
    Stream stream;
    Event begins, copied_in, computed, copied_out;
};

// The sizes of a slab.
struct Extent {
    explicit Extent(const Slab & slab)
        : rows(slab.experts * slab.rows),
          weights(rows * slab.columns),
          source_bytes(static_cast<size_t>(rows) * ggml_row_size(slab.source_type, slab.columns)),
          target_bytes(static_cast<size_t>(rows) * ggml_row_size(slab.type, slab.columns)),
          importance_values(
              slab.importance == nullptr ? 0 : static_cast<size_t>(slab.experts * slab.columns)) {}

    int64_t rows, weights;
    size_t source_bytes, target_bytes, importance_values;
};

void launch_kernels(const Slab & slab, const Slot & slot, const QuantizeKernel & kernel,
                    const void * tables) {
    const Extent extent(slab);
    const void * source = slot.source;
    std::optional<Source> source_type = to_source(slab.source_type);
    if (!source_type) {
        launch_dequantizer(slot.stream, *find_dequantizer(slab.source_type), slot.source,
                           extent.weights, slot.dequantized);
        source = slot.dequantized;
        source_type = Source::f32;
    }
    if (kernel.by_row) {
        slot.stream.launch(
            row_kernel(), blocks_for(extent.rows, kRowsPerThreadBlock), kThreads, row_shared_bytes(),
            RowArguments{source, *source_type, slot.mean_squares,
                         static_cast<uint32_t>(extent.rows), static_cast<uint32_t>(slab.columns)});
    }
    const QuantizeArguments arguments{
        source,
        *source_type,
        slot.importance,
        slot.mean_squares,
        tables,
        slot.target,
        static_cast<uint32_t>(extent.weights / kernel.weights),
        static_cast<uint32_t>(slab.columns / kernel.weights),
        static_cast<uint32_t>(slab.rows),
        slot.flags,
    };
    slot.stream.launch(kernel.function, blocks_for(arguments.blocks, kernel.blocks), kernel.threads,
                       kernel.shared_bytes, arguments);
}

}  // namespace

size_t SlabLimits::device_bytes() const {
    return aligned(source_bytes) + aligned(target_bytes) +
           aligned(importance_values * sizeof(float)) + aligned(rows * sizeof(float)) +
           aligned(dequantized_weights * sizeof(float)) + aligned(sizeof(Flags));
}

bool can_quantize(ggml_type source, ggml_type target, bool weighted) {
    return (to_source(source) || find_dequantizer(source) != nullptr) &&
           find_kernel(target, weighted) != nullptr;
}

struct Quantizer::Implementation {
    Implementation(int index, int count, const SlabLimits & given) : device(index), limits(given) {
        use_device(device);
        tables.emplace();
        for (int i = 0; i < count; ++i) {
            slots.push_back(std::make_unique<Slot>(limits));
        }
    }
    ~Implementation() { cudaSetDevice(device); }

    const QuantizeKernel & kernel_for(const Slab & slab) const {
        const QuantizeKernel * kernel = find_kernel(slab.type, slab.importance != nullptr);
        const Extent extent(slab);
        if (kernel == nullptr ||
            (!to_source(slab.source_type) && find_dequantizer(slab.source_type) == nullptr)) {
            throw std::invalid_argument("there is no kernel for these types");
        }
        const size_t dequantized =
            to_source(slab.source_type) ? 0 : static_cast<size_t>(extent.weights);
        if (extent.source_bytes > limits.source_bytes ||
            extent.target_bytes > limits.target_bytes ||
            extent.importance_values > limits.importance_values ||
            static_cast<size_t>(extent.rows) > limits.rows ||
            dequantized > limits.dequantized_weights || extent.weights / 8 > INT32_MAX ||
            slab.columns % kernel->weights != 0) {
            throw std::invalid_argument("the slab is larger than the limits");
        }
        return *kernel;
    }

    int device;
    SlabLimits limits;
    std::optional<Tables> tables;
    std::vector<std::unique_ptr<Slot>> slots;
};

Quantizer::Quantizer(int device, int slots, const SlabLimits & limits)
    : implementation_(std::make_unique<Implementation>(device, slots, limits)) {}

Quantizer::~Quantizer() = default;

void Quantizer::submit(int index, const Slab & slab) {
    const QuantizeKernel & kernel = implementation_->kernel_for(slab);
    use_device(implementation_->device);
    const void * tables = implementation_->tables->of(kernel);
    const Slot & slot = *implementation_->slots.at(static_cast<size_t>(index));
    const Extent extent(slab);
    slot.begins.record(slot.stream);
    slot.stream.copy_in(slot.source, slab.source, extent.source_bytes);
    if (slab.importance != nullptr) {
        const size_t bytes = extent.importance_values * sizeof(float);
        std::memcpy(slot.importance_on_host.data(), slab.importance, bytes);
        slot.stream.copy_in(slot.importance, slot.importance_on_host.data(), bytes);
    }
    slot.stream.clear(slot.flags, sizeof(Flags));
    slot.copied_in.record(slot.stream);
    launch_kernels(slab, slot, kernel, tables);
    slot.computed.record(slot.stream);
    slot.stream.copy_out(slab.target, slot.target, extent.target_bytes);
    slot.stream.copy_out(slot.flags_on_host.data(), slot.flags, sizeof(Flags));
    slot.copied_out.record(slot.stream);
}

Outcome Quantizer::wait(int index) {
    use_device(implementation_->device);
    const Slot & slot = *implementation_->slots.at(static_cast<size_t>(index));
    slot.copied_out.wait();
    const Flags flags = *static_cast<const Flags *>(slot.flags_on_host.data());
    return {flags.not_finite == 0 && flags.too_large == 0,
            slot.copied_in.seconds_since(slot.begins), slot.computed.seconds_since(slot.copied_in),
            slot.copied_out.seconds_since(slot.computed)};
}

double Quantizer::time_kernels(int index, const Slab & slab, int repeats) {
    const QuantizeKernel & kernel = implementation_->kernel_for(slab);
    use_device(implementation_->device);
    const void * tables = implementation_->tables->of(kernel);
    const Slot & slot = *implementation_->slots.at(static_cast<size_t>(index));
    double best = 1e9;
    for (int i = 0; i < repeats; ++i) {
        slot.begins.record(slot.stream);
        launch_kernels(slab, slot, kernel, tables);
        slot.computed.record(slot.stream);
        slot.computed.wait();
        best = std::min(best, slot.computed.seconds_since(slot.begins));
    }
    return best;
}

void dequantize(int device, const void * source, ggml_type type, int64_t weights, float * target) {
    const DequantizeKernel * kernel = find_dequantizer(type);
    if (kernel == nullptr) {
        throw std::invalid_argument("there is no kernel for this type");
    }
    if (weights % kernel->weights != 0 || weights / 8 > INT32_MAX) {
        throw std::invalid_argument("these are no whole blocks, or too many");
    }
    use_device(device);
    const auto bytes =
        static_cast<size_t>(weights / kernel->weights) * static_cast<size_t>(kernel->bytes);
    const auto target_bytes = static_cast<size_t>(weights) * sizeof(float);
    const DeviceMemory blocks(bytes);
    const DeviceMemory values(target_bytes);
    const Stream stream;
    stream.copy_in(blocks.as<void>(), source, bytes);
    launch_dequantizer(stream, *kernel, blocks.as<uint8_t>(), weights, values.as<float>());
    stream.copy_out(target, values.as<void>(), target_bytes);
    stream.wait();
}

}  // namespace apex::cuda
