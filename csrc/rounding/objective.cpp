#include "objective.h"

#include <cmath>

#include "dispatch/dispatch.h"
#include "engine/fp_environment.h"

namespace apex::rounding {

namespace {

// What a column that was never active counts for, as a share of the mean.
constexpr double kLeast = 1e-5;

}  // namespace

Objective::Objective(const Moments & own, const Moments & pooled, int64_t columns,
                     const Shrinkage & shrinkage)
    : columns_(columns), moments_(static_cast<size_t>(columns * columns)) {
    engine::FpEnvironment exact;
    const double prior = pooled.rows > 0 ? shrinkage.prior_rows / pooled.rows : 0;
    const auto at = [&](int64_t i) { return own.sums[i] + prior * pooled.sums[i]; };
    double trace = 0;
    for (int64_t i = 0; i < columns; ++i) {
        trace += at(i * (i + 1) / 2 + i);
    }
    const double mean = trace / static_cast<double>(columns);
    if (!(mean > 0) || !std::isfinite(mean)) {
        throw std::invalid_argument("the second moments are zero or not finite");
    }
    for (int64_t i = 0; i < columns; ++i) {
        for (int64_t k = 0; k <= i; ++k) {
            double value = at(i * (i + 1) / 2 + k) / mean;
            if (i == k) {
                value += shrinkage.damping * value + kLeast;
            }
            moments_[static_cast<size_t>(i * columns + k)] =
                moments_[static_cast<size_t>(k * columns + i)] = static_cast<float>(value);
        }
    }
    factors_ = moments_;
    pivots_.resize(static_cast<size_t>(columns));
    if (!dispatch::kernels().factorize(factors_.data(), columns, pivots_.data())) {
        throw std::invalid_argument("the second moments are not positive definite");
    }
}

}  // namespace apex::rounding
