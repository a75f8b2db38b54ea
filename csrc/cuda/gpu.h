// What apex does on GPUs: the interface, without CUDA's types. csrc/no_cuda implements the same for
// builds without CUDA. Everything may be called from several threads, a Quantizer or Sums from one
// at a time.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace apex::cuda {

// There is no GPU, it has too little memory, it failed or was lost.
class DeviceError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct Device {
    int index;
    std::string name;
    int major, minor;  // of its compute capability
    uint64_t memory, free_memory;
    int processors;     // streaming multiprocessors
    double clock;       // of them at most, in Hz
    bool is_supported;  // whether this build has kernels for it
};

// Whether this build has CUDA kernels.
bool is_built();

// All GPUs. Throws DeviceError, which says why, where there is none.
std::vector<Device> devices();

// Whether there is a kernel from weights of one type to another. Weights of F32, F16 and BF16 are
// read directly, quantized ones are dequantized on the device first.
bool can_quantize(ggml_type source, ggml_type target, bool weighted);

// Host memory that a GPU copies from and to by itself. Throws DeviceError where there is too
// little.
class HostMemory {
  public:
    explicit HostMemory(size_t bytes);
    ~HostMemory();
    HostMemory(const HostMemory &) = delete;
    HostMemory & operator=(const HostMemory &) = delete;

    void * data() const { return data_; }
    size_t size() const { return bytes_; }

  private:
    void * data_ = nullptr;
    size_t bytes_;
};

// One of the things that a job's rows become. Its memory is the host's.
struct Target {
    ggml_type type;
    const float * importance;  // `columns` values per expert, or null
    void * bytes;
};

// Rows of one tensor in memory of the host, and all their targets. Only HostMemory is copied while
// other work goes on.
struct Job {
    const void * source;
    ggml_type source_type;
    int64_t experts, rows, columns;  // rows per expert
    std::vector<Target> targets;
};

// The largest job that a Quantizer will be given.
struct JobLimits {
    size_t source_bytes = 0;
    size_t target_bytes = 0;         // of all targets together
    size_t importance_values = 0;    // the same; experts * columns for each that has an importance
    size_t rows = 0;                 // of all experts
    size_t dequantized_weights = 0;  // of quantized sources
    size_t targets = 1;

    // What a slot takes of the device's memory.
    size_t device_bytes() const;
};

// What became of a job, and how long the device was busy with it, in seconds.
struct Outcome {
    // Otherwise a weight is NaN, infinite or too large for one of the targets: what all of them
    // hold is void, and the processor has to decide.
    bool is_sound;
    double copying_in, computing, copying_out;
};

// One GPU with slots for several jobs, whose copies and kernels overlap. A slot has room for the
// source once, and for all targets side by side.
class Quantizer {
  public:
    // Throws DeviceError.
    Quantizer(int device, int slots, const JobLimits & limits);
    ~Quantizer();
    Quantizer(const Quantizer &) = delete;
    Quantizer & operator=(const Quantizer &) = delete;

    // Begins with a job and returns at once; its rows and the targets' bytes must stay until
    // `wait`. Throws DeviceError; std::invalid_argument where there is no target, or no kernel for
    // one, or the job is larger than the limits.
    void submit(int slot, const Job & job);

    // Waits for the job in a slot. Throws DeviceError: its targets then hold nothing of use.
    Outcome wait(int slot);

    // Runs the kernels of the last job again and again on what lies in the slot; the fastest, in
    // seconds. After `wait`.
    double time_kernels(int slot, const Job & job, int repeats);

  private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

// Turns blocks in host memory back into weights. Throws DeviceError, and std::invalid_argument
// where the type has no kernel.
void dequantize(int device, const void * source, ggml_type type, int64_t weights, float * target);

// The speed of copies: bytes per second to the device, from it, and on it (read and written bytes
// together).
struct Bandwidth {
    double to_device, from_device, on_device;
};

// Copies `bytes` bytes several times; the fastest.
Bandwidth measure_bandwidth(int device, size_t bytes);

// Activations on a device: `data` and `ids` are its pointers, strides are in bytes. Without `ids`
// every matrix has the rows that ggml multiplies it with; with them, a row is for the expert that
// its id names.
struct DeviceActivations {
    const void * data;  // float32
    int64_t columns;
    int64_t extents[3];  // with ids: experts used or 1, tokens; without: as ggml's ne[1..3]
    int64_t strides[3];
    const void * ids;  // int32, the expert of each (used, token), or null
    int64_t used, tokens;
    int64_t id_strides[2];
    int64_t matrices[2];  // experts, 1; or ggml's ne[2..3] of the weights
};

// Sums of squared activations that stay on the device until they are asked for.
class Sums {
  public:
    explicit Sums(int device);
    ~Sums();
    Sums(const Sums &) = delete;
    Sums & operator=(const Sums &) = delete;

    struct Entry {
        int64_t columns = 0;
        std::vector<float> sums;      // columns of every matrix
        std::vector<int64_t> counts;  // rows of every matrix
    };

    // Begins a tensor with sums from before. Throws DeviceError.
    void begin(const std::string & name, const Entry & entry);

    // Adds the squares of activations to a tensor that was begun, in the order of the rows, in
    // float32. The data must be complete. Throws DeviceError, std::invalid_argument where sizes
    // differ.
    void add(const std::string & name, const DeviceActivations & activations);

    // The same of activations in host memory, whose pointers and strides are those of the host.
    void add_from_host(const std::string & name, const DeviceActivations & activations,
                       size_t bytes, size_t id_bytes);

    // A tensor that was begun. Throws DeviceError.
    Entry read(const std::string & name, bool counts_alone) const;

  private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace apex::cuda
