// What compensated rounding makes small: tr(E H E^T), E being the errors of a matrix and H what is
// known of the second moments of its inputs.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

namespace apex::rounding {

// Sums over rows of inputs x of x x^T: the lower triangle, row by row.
struct Moments {
    const float * sums;
    double rows;
};

// How far an estimate of few rows is drawn to what is known besides.
struct Shrinkage {
    double prior_rows;  // that the pooled moments count for
    double damping;     // of every diagonal element
};

class Objective {
  public:
    // pooled: of all experts of the tensor. Throws std::invalid_argument where nothing is known.
    Objective(const Moments & own, const Moments & pooled, int64_t columns,
              const Shrinkage & shrinkage);

    int64_t columns() const { return columns_; }
    const float * moments() const { return moments_.data(); }
    const float * factors() const { return factors_.data(); }
    const float * pivots() const { return pivots_.data(); }

  private:
    int64_t columns_;
    std::vector<float> moments_, factors_, pivots_;
};

}  // namespace apex::rounding
