// Jobs on their way through a GPU: each in a stream of its own, so that the copies of one overlap
// with the kernels of another.
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

uint32_t thread_blocks_for(int64_t items, int64_t per_block) {
    return static_cast<uint32_t>((items + per_block - 1) / per_block);
}

void launch_dequantizer(const Stream & stream, const DequantizeKernel & kernel,
                        const uint8_t * source, int64_t weights, float * target) {
    const auto eights = static_cast<uint32_t>(weights / 8);
    stream.launch(kernel.function, thread_blocks_for(eights, kThreads), kThreads, 0,
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

// Targets lie side by side, each aligned.
size_t room_for_targets(const JobLimits & limits) {
    return limits.target_bytes + limits.targets * kAlignment;
}

// Room for one job, on the device and for what accompanies it on the host.
struct Slot {
    explicit Slot(const JobLimits & limits)
        : memory(limits.device_bytes()),
          importance_on_host(limits.importance_values * sizeof(float)),
          flags_on_host(sizeof(Flags)) {
        auto * next = memory.as<unsigned char>();
        const auto take = [&](size_t bytes) { return std::exchange(next, next + aligned(bytes)); };
        source = take(limits.source_bytes);
        targets = take(room_for_targets(limits));
        importance = reinterpret_cast<float *>(take(limits.importance_values * sizeof(float)));
        mean_squares = reinterpret_cast<float *>(take(limits.rows * sizeof(float)));
        dequantized = reinterpret_cast<float *>(take(limits.dequantized_weights * sizeof(float)));
        flags = reinterpret_cast<Flags *>(take(sizeof(Flags)));
    }

    DeviceMemory memory;
    HostMemory importance_on_host, flags_on_host;
    unsigned char * source;
    unsigned char * targets;
    float * importance;
    float * mean_squares;
    float * dequantized;
    Flags * flags;
    Stream stream;
    Event begins, copied_in, computed, copied_out;
};

// A target with its kernel, and where it lies in a slot.
struct PreparedTarget {
    const Target & given;
    const QuantizeKernel & kernel;
    const void * tables;
    size_t bytes;
    size_t offset;             // of its bytes among those of all targets
    size_t importance_offset;  // in values
};

// A job that can be launched in any slot that has room for it.
struct PreparedJob {
    const Job & given;
    int64_t rows, weights;
    size_t source_bytes, target_bytes = 0, importance_values = 0;
    std::vector<PreparedTarget> targets;

    // Throws std::invalid_argument.
    PreparedJob(const Job & job, Tables & tables)
        : given(job),
          rows(job.experts * job.rows),
          weights(rows * job.columns),
          source_bytes(static_cast<size_t>(rows) * ggml_row_size(job.source_type, job.columns)) {
        size_t offset = 0;
        for (const Target & target : job.targets) {
            const bool weighted = target.importance != nullptr;
            if (!can_quantize(job.source_type, target.type, weighted)) {
                throw std::invalid_argument("there is no kernel for these types");
            }
            const QuantizeKernel & kernel = *find_kernel(target.type, weighted);
            if (job.columns % kernel.weights != 0) {
                throw std::invalid_argument("the rows are not whole blocks of the target's type");
            }
            const size_t bytes =
                static_cast<size_t>(rows) * ggml_row_size(target.type, job.columns);
            targets.push_back(
                {target, kernel, tables.of(kernel), bytes, offset, importance_values});
            target_bytes += bytes;
            offset += aligned(bytes);
            importance_values += weighted ? values_per_importance() : 0;
        }
    }

    size_t values_per_importance() const {
        return static_cast<size_t>(given.experts * given.columns);
    }

    bool fits(const JobLimits & limits) const {
        const size_t dequantized = to_source(given.source_type) ? 0 : static_cast<size_t>(weights);
        return targets.size() <= limits.targets && source_bytes <= limits.source_bytes &&
               target_bytes <= limits.target_bytes &&
               importance_values <= limits.importance_values &&
               static_cast<size_t>(rows) <= limits.rows &&
               dequantized <= limits.dequantized_weights && weights / 8 <= INT32_MAX;
    }
};

void copy_in(const PreparedJob & job, const Slot & slot) {
    slot.stream.copy_in(slot.source, job.given.source, job.source_bytes);
    auto * const importance = static_cast<float *>(slot.importance_on_host.data());
    for (const PreparedTarget & target : job.targets) {
        if (target.given.importance != nullptr) {
            std::copy_n(target.given.importance, job.values_per_importance(),
                        importance + target.importance_offset);
        }
    }
    if (job.importance_values > 0) {
        slot.stream.copy_in(slot.importance, importance, job.importance_values * sizeof(float));
    }
    slot.stream.clear(slot.flags, sizeof(Flags));
}

// The kernels of all targets, one after the other. What they have in common is made once.
void launch_kernels(const PreparedJob & job, const Slot & slot) {
    const void * source = slot.source;
    std::optional<Source> source_type = to_source(job.given.source_type);
    if (!source_type) {
        launch_dequantizer(slot.stream, *find_dequantizer(job.given.source_type), slot.source,
                           job.weights, slot.dequantized);
        source = slot.dequantized;
        source_type = Source::f32;
    }
    const auto columns = static_cast<uint32_t>(job.given.columns);
    if (std::any_of(job.targets.begin(), job.targets.end(),
                    [](const PreparedTarget & target) { return target.kernel.by_row; })) {
        slot.stream.launch(row_kernel(), thread_blocks_for(job.rows, kRowsPerThreadBlock), kThreads,
                           row_shared_bytes(),
                           RowArguments{source, *source_type, slot.mean_squares,
                                        static_cast<uint32_t>(job.rows), columns});
    }
    for (const PreparedTarget & target : job.targets) {
        const QuantizeKernel & kernel = target.kernel;
        const QuantizeArguments arguments{
            source,
            *source_type,
            slot.importance + target.importance_offset,
            slot.mean_squares,
            target.tables,
            slot.targets + target.offset,
            static_cast<uint32_t>(job.weights / kernel.weights),
            columns / static_cast<uint32_t>(kernel.weights),
            static_cast<uint32_t>(job.given.rows),
            slot.flags,
        };
        slot.stream.launch(kernel.function, thread_blocks_for(arguments.blocks, kernel.blocks),
                           kernel.threads, kernel.shared_bytes, arguments);
    }
}

void copy_out(const PreparedJob & job, const Slot & slot) {
    for (const PreparedTarget & target : job.targets) {
        slot.stream.copy_out(target.given.bytes, slot.targets + target.offset, target.bytes);
    }
    slot.stream.copy_out(slot.flags_on_host.data(), slot.flags, sizeof(Flags));
}

}  // namespace

bool can_quantize(ggml_type source, ggml_type target, bool weighted) {
    return (to_source(source) || find_dequantizer(source) != nullptr) &&
           find_kernel(target, weighted) != nullptr;
}

size_t JobLimits::device_bytes() const {
    return aligned(source_bytes) + aligned(room_for_targets(*this)) +
           aligned(importance_values * sizeof(float)) + aligned(rows * sizeof(float)) +
           aligned(dequantized_weights * sizeof(float)) + aligned(sizeof(Flags));
}

struct Quantizer::Implementation {
    Implementation(int index, int count, const JobLimits & given) : device(index), limits(given) {
        use_device(device);
        tables.emplace();
        for (int i = 0; i < count; ++i) {
            slots.push_back(std::make_unique<Slot>(limits));
        }
    }
    ~Implementation() { cudaSetDevice(device); }

    // Checks a job, and copies what its formats look up to the device.
    PreparedJob prepare(const Job & given) {
        use_device(device);
        if (given.targets.empty()) {
            throw std::invalid_argument("the job has no target");
        }
        PreparedJob job(given, *tables);
        if (!job.fits(limits)) {
            throw std::invalid_argument("the job is larger than the limits");
        }
        return job;
    }

    const Slot & slot(int index) const { return *slots.at(static_cast<size_t>(index)); }

    int device;
    JobLimits limits;
    std::optional<Tables> tables;
    std::vector<std::unique_ptr<Slot>> slots;
};

Quantizer::Quantizer(int device, int slots, const JobLimits & limits)
    : implementation_(std::make_unique<Implementation>(device, slots, limits)) {}

Quantizer::~Quantizer() = default;

void Quantizer::submit(int index, const Job & given) {
    const PreparedJob job = implementation_->prepare(given);
    const Slot & slot = implementation_->slot(index);
    slot.begins.record(slot.stream);
    copy_in(job, slot);
    slot.copied_in.record(slot.stream);
    launch_kernels(job, slot);
    slot.computed.record(slot.stream);
    copy_out(job, slot);
    slot.copied_out.record(slot.stream);
}

Outcome Quantizer::wait(int index) {
    use_device(implementation_->device);
    const Slot & slot = implementation_->slot(index);
    slot.copied_out.wait();
    const Flags flags = *static_cast<const Flags *>(slot.flags_on_host.data());
    return {flags.not_finite == 0 && flags.too_large == 0,
            slot.copied_in.seconds_since(slot.begins), slot.computed.seconds_since(slot.copied_in),
            slot.copied_out.seconds_since(slot.computed)};
}

double Quantizer::time_kernels(int index, const Job & given, int repeats) {
    const PreparedJob job = implementation_->prepare(given);
    const Slot & slot = implementation_->slot(index);
    double best = 1e9;
    for (int i = 0; i < repeats; ++i) {
        slot.begins.record(slot.stream);
        launch_kernels(job, slot);
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
        throw std::invalid_argument("the weights are not whole blocks, or too many");
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
