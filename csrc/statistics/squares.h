// Importance matrices in the making: sums of squared activations per column, and counts.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/gpu.h"

namespace apex::statistics {

// An activation is infinite or not a number, or a sum has overflowed.
class NonFinite : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// What is collected for one tensor.
struct Entry {
    int64_t columns = 0;
    std::vector<float> sums;      // columns of every matrix (expert)
    std::vector<int64_t> counts;  // rows of every matrix, or one number for all of them
    // Which rows made the sums, now and before the last were added: equal numbers, equal sums.
    uint64_t history = 0, history_before = 0;

    int64_t matrices() const { return static_cast<int64_t>(sums.size()) / columns; }
};

// Rows of `columns` activations each, by the matrix that they were multiplied with.
struct Rows {
    int64_t columns;
    std::vector<std::vector<const float *>> of_matrix;
};

class Accumulator {
  public:
    // threads: how many may add at a time; 0: all available.
    explicit Accumulator(int threads) : threads_(threads) {}

    // Adds rows to experts that are counted each by itself. The sum of a column is taken in float,
    // in the order of the rows, as llama-imatrix takes it: the number of threads does not matter.
    // Throws NonFinite, and std::invalid_argument where sizes differ from those of earlier rows.
    void add_routed(const std::string & name, const Rows & rows);

    // The same for a tensor whose matrices all see equally many rows: one count for all.
    void add_dense(const std::string & name, const Rows & rows);

    // Adds the rows that were added to another tensor last: those of query, key and value are the
    // same. Only copies, and only where both have seen the same rows until then; else returns
    // false.
    bool add_same(const std::string & name, const std::string & other);

    // Adds rows that lie on a GPU, which sums them in the same order; the sums stay there until
    // they are asked for. routed: as add_routed, otherwise as add_dense. Throws as these do, and
    // cuda::DeviceError.
    void add_on_device(const std::string & name, int device, const cuda::DeviceRows & rows,
                       bool routed);

    // The same of rows in host memory, of so many bytes.
    void add_by_way_of_device(const std::string & name, int device, const cuda::DeviceRows & rows,
                              bool routed, size_t bytes, size_t id_bytes);

    // Adds what was collected elsewhere. Throws std::invalid_argument where sizes differ.
    void merge(const std::string & name, const Entry & entry);

    // Everything so far. Throws NonFinite, cuda::DeviceError.
    const std::map<std::string, Entry> & entries();

    // How many rows each tensor's matrices have seen; cheaper where sums are on a GPU.
    std::map<std::string, std::vector<int64_t>> counts() const;

  private:
    Entry & entry(const std::string & name, const Rows & rows);
    void add_sums(const std::string & name, const Rows & rows, Entry & target);
    cuda::Sums & begin_on_device(const std::string & name, int device,
                                 const cuda::DeviceRows & rows, bool routed);
    void fetch(const std::string & name);

    // A tensor whose sums are on a GPU; its entry holds those from before.
    struct Placement {
        int device;
        bool routed;
    };

    int threads_;
    uint64_t additions_ = 0;
    std::map<std::string, Entry> entries_;
    std::map<std::string, Placement> placed_;
    std::map<int, std::unique_ptr<cuda::Sums>> devices_;
};

}  // namespace apex::statistics
