// Sums of squared activations per column, and counts of rows: importance matrices in the making.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda/gpu.h"
#include "statistics/activation_sink.h"

namespace apex::statistics {

// What is collected for one tensor.
struct Entry {
    int64_t columns = 0;
    std::vector<float> sums;      // columns of every matrix (expert)
    std::vector<int64_t> counts;  // rows of every matrix, or one number for all of them
    // Which rows made the sums, now and before the last were added: equal numbers, equal sums.
    uint64_t history = 0, history_before = 0;

    int64_t matrices() const { return static_cast<int64_t>(sums.size()) / columns; }
};

// Equal rows in equal order give equal bits, which are those of llama-imatrix: a column is summed
// in float, in the order of the rows, here or on a GPU; the number of threads does not matter.
class Squares final : public ActivationSink {
  public:
    // threads: how many may add at a time; 0: all available. without: tensors that are passed over.
    explicit Squares(int threads, std::set<std::string> without = {})
        : threads_(threads), without_(std::move(without)) {}

    // Experts are counted each by itself, other matrices together. Throws NonFinite, and
    // std::invalid_argument where sizes differ from those of earlier rows.
    void add(const std::string & name, const Activations & activations) override;

    // Copies the sums of the other tensor, if both have seen the same rows until its last ones.
    bool add_same(const std::string & name, const std::string & other) override;

    // The sums stay on the GPU until they are asked for. Throws as `add`, and cuda::DeviceError.
    bool add_on_device(const std::string & name, int device,
                       const cuda::DeviceActivations & activations) override;

    // The same of rows in host memory, which are copied there: `bytes` bytes, and `id_bytes` of
    // ids.
    void add_by_way_of_device(const std::string & name, int device,
                              const cuda::DeviceActivations & activations, size_t bytes,
                              size_t id_bytes);

    // Adds what was collected elsewhere. Throws std::invalid_argument where sizes differ.
    void merge(const std::string & name, const Entry & entry);

    // Everything so far. Throws NonFinite, cuda::DeviceError.
    const std::map<std::string, Entry> & entries();

    // How many rows each tensor's matrices have seen; cheaper where sums are on a GPU.
    std::map<std::string, std::vector<int64_t>> counts() const;

  private:
    Entry & entry(const std::string & name, int64_t columns, size_t matrices);
    void add_routed(const std::string & name, const Activations & activations, Entry & target);
    void add_dense(const std::string & name, const Activations & activations, Entry & target);
    void add_sums(const std::string & name, const Activations & activations, Entry & target);
    cuda::Sums & begin_on_device(const std::string & name, int device,
                                 const cuda::DeviceActivations & activations);
    void fetch(const std::string & name);

    // A tensor whose sums are on a GPU; its entry holds those from before.
    struct Placement {
        int device;
        bool is_routed;
    };

    bool is_left_out(const std::string & name) const { return without_.count(name) != 0; }

    int threads_;
    std::set<std::string> without_;
    uint64_t additions_ = 0;
    std::map<std::string, Entry> entries_;
    std::map<std::string, Placement> placed_;
    std::map<int, std::unique_ptr<cuda::Sums>> devices_;
};

}  // namespace apex::statistics
