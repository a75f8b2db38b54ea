// Second moments of activations: per matrix the sum over its rows of x xᵀ.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "statistics/activation_sink.h"

namespace apex::statistics {

// What is known of a tensor's inputs, and what was collected of them.
struct MomentsEntry {
    int64_t columns = 0;
    int64_t matrices = 0;
    std::string same_as;        // the tensor whose inputs these are too, and which has the sums
    std::vector<int64_t> rows;  // of every matrix, those that wait among them
    // Of every matrix, the lower triangle packed: row i, column j at i (i + 1) / 2 + j.
    std::vector<float> sums;

    int64_t triangle() const { return columns * (columns + 1) / 2; }

    // Of every matrix, the rows that wait to be summed, cut into panels of columns.
    std::vector<float> waiting;
    std::vector<int64_t> waits;  // how many, by matrix
    // Which rows made the sums, now and before the last were added: equal numbers, equal sums.
    uint64_t history = 0, history_before = 0;
};

// Every sum is taken in binary32 in the order of the rows, with one rounded product and one rounded
// addition each. Batches, threads and the instruction set change no bit.
class Moments final : public ActivationSink {
  public:
    // wanted: the tensors that are summed, all without it; of others the sizes are learned alone.
    // Of tensors with the same inputs, the first decides.
    // threads: how many may add at a time; 0: all available.
    Moments(std::optional<std::set<std::string>> wanted, int threads)
        : wanted_(std::move(wanted)), threads_(threads) {}

    // What a tensor that is summed takes in memory.
    static int64_t bytes(int64_t columns, int64_t matrices);

    // Throws std::invalid_argument where sizes differ from those of earlier rows, NonFinite at the
    // latest when the sums are asked for, and std::runtime_error where the rows of a tensor that
    // had the same inputs as another are suddenly its own.
    void add(const std::string & name, const Activations & activations) override;

    // Remembers that the tensors have the same inputs; nothing is kept twice.
    bool add_same(const std::string & name, const std::string & other) override;

    // Brings rows of wanted tensors to host memory.
    bool add_on_device(const std::string & name, int device,
                       const cuda::DeviceActivations & activations) override;

    // The names in the order in which they were first seen.
    const std::vector<std::string> & names() const { return names_; }

    // What is known without summing rows that wait; throws std::out_of_range.
    const MomentsEntry & known(const std::string & name) const { return entries_.at(name); }

    // Sums the rows that wait. Throws std::out_of_range for a name that was not seen, NonFinite.
    const MomentsEntry & entry(const std::string & name);

  private:
    MomentsEntry & sized(const std::string & name, int64_t columns, int64_t matrices);
    MomentsEntry & begin(const std::string & name, int64_t columns, int64_t matrices);
    static void allocate(MomentsEntry & entry);
    void take(const std::string & name, MomentsEntry & entry, const Activations & activations);
    void sum_waiting(const std::string & name, MomentsEntry & entry, int64_t least);

    bool is_wanted(const std::string & name) const {
        return !wanted_.has_value() || wanted_->count(name) != 0;
    }

    std::optional<std::set<std::string>> wanted_;
    int threads_;
    uint64_t additions_ = 0;
    std::vector<std::string> names_;
    std::map<std::string, MomentsEntry> entries_;
};

}  // namespace apex::statistics
