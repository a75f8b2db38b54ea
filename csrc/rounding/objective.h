// What compensated rounding makes small: tr(E H E^T), E being the errors of a matrix and H what is
// known of the second moments of its inputs.
#pragma once

#include <cstdint>
#include <vector>

namespace apex::rounding {

// Sums over rows of inputs x of x x^T: the lower triangle, row by row.
struct Moments {
    const float * sums;
    double rows;
};

// How far the moments of few rows are drawn to what is known besides.
struct Shrinkage {
    double prior_rows;  // that the pooled moments count for
    double damping;     // what is added to the diagonal, as a share of it
    double level;       // the same, as a share of its mean: other texts move other columns
};

// The damping of a matrix of this many columns whose inputs were seen in this many rows: the fewer,
// the nearer H comes to its diagonal, which is what the importance matrix knows. Its constants were
// chosen on calibration text kept apart (bench/README.md).
double damping_for(double rows, int64_t columns);

// H is (own + prior_rows * pooled / pooled.rows), its diagonal damped, over the mean of its
// diagonal. Made in binary64, kept in binary32; the threads change no bit.
class Objective {
  public:
    // pooled: over all experts of the tensor. Throws std::invalid_argument where nothing is known.
    Objective(const Moments & own, const Moments & pooled, int64_t columns,
              const Shrinkage & shrinkage, int threads);

    int64_t columns() const { return columns_; }
    const float * moments() const { return moments_.data(); }  // H, row by row
    const float * factors() const { return factors_.data(); }  // see compensation/factorize.h
    const float * pivots() const { return pivots_.data(); }

  private:
    void factorize(int threads);

    int64_t columns_;
    std::vector<float> moments_, factors_, pivots_;
};

}  // namespace apex::rounding
