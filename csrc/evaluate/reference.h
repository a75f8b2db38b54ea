// The distributions of one model at many positions, kept so that others can be compared with it.
#pragma once

#include <cstdint>
#include <vector>

#include "likelihood.h"

namespace apex::evaluate {

// Whole distributions, or of each the most likely tokens and what all others have together. The
// divergence of the latter is that of the distributions so made coarser: never more than the whole
// one's, and less by what the model's tails differ in themselves.
class Reference {
  public:
    // top: how many tokens are kept of each position; 0 for all.
    Reference(int64_t vocabulary, int64_t top);

    int64_t vocabulary() const { return vocabulary_; }
    int64_t rows() const { return rows_; }

    // In memory, of each position.
    static int64_t row_bytes(int64_t vocabulary, int64_t top);

    // Appends these rows of logits.
    void add(const Logits & logits, const std::vector<int64_t> & rows, int threads);

    // KL divergence in nats of each kept position, from `first` on, to a row of logits.
    void diverge(int64_t first, const Logits & logits, const std::vector<int64_t> & rows,
                 int threads, double * result) const;

  private:
    int64_t kept() const { return top_ > 0 ? top_ : vocabulary_; }

    int64_t vocabulary_, top_;
    int64_t rows_ = 0;
    std::vector<float> logs_;      // ln p of the kept tokens, position by position
    std::vector<int32_t> tokens_;  // which they are; empty where all are kept
    std::vector<double> tails_;    // p of all others together
};

}  // namespace apex::evaluate
