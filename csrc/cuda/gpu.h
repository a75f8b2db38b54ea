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

// Rows to quantize, in memory of the host; only HostMemory is copied while other work goes on.
struct Slab {
    const void * source;
    ggml_type source_type;
    int64_t experts, rows, columns;  // rows per expert
    const float * importance;        // `columns` values per expert, or null
    void * target;
    ggml_type type;
};

// The largest slab that a Quantizer will be given.
struct SlabLimits {
    size_t source_bytes = 0;
    size_t target_bytes = 0;
    size_t importance_values = 0;    // experts * columns
    size_t rows = 0;                 // of all experts
    size_t dequantized_weights = 0;  // of quantized sources

    size_t device_bytes() const;
};

// What became of a slab, and how long the device was busy with it, in seconds.
struct Outcome {
    bool is_sound;  // otherwise a weight is NaN, infinite or too large: the processor has to decide
    double copying_in, computing, copying_out;
};

// One GPU with room for several slabs, whose copies and kernels overlap.
class Quantizer {
  public:
    // Throws DeviceError.
    Quantizer(int device, int slots, const SlabLimits & limits);
    ~Quantizer();
    Quantizer(const Quantizer &) = delete;
    Quantizer & operator=(const Quantizer &) = delete;

    // Begins with a slab and returns at once; its memory must stay until `wait`. Throws
    // DeviceError; std::invalid_argument where there is no kernel, or the slab is larger than the
    // limits.
    void submit(int slot, const Slab & slab);

    // Waits for a slab. Throws DeviceError: its target then holds nothing of use.
    Outcome wait(int slot);

    // Runs the kernels of a slab again and again on what lies on the device; the fastest, in
    // seconds. After `wait`.
    double time_kernels(int slot, const Slab & slab, int repeats);

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
