#include "objective.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "dispatch/dispatch.h"
#include "engine/parallel.h"

namespace apex::rounding {

namespace {

constexpr double kDamping = 3;
constexpr double kLeastDamping = 0.1;
// Rows that a task takes.
constexpr int64_t kRows = 64;

}  // namespace

double damping_for(double rows, int64_t columns) {
    return std::max(kDamping * static_cast<double>(columns) / std::max(rows, 1.0), kLeastDamping);
}

Objective::Objective(const Moments & own, const Moments & pooled, int64_t columns,
                     const Shrinkage & shrinkage, int threads)
    : columns_(columns),
      moments_(static_cast<size_t>(columns * columns)),
      pivots_(static_cast<size_t>(columns)) {
    const double prior = pooled.rows > 0 ? shrinkage.prior_rows / pooled.rows : 0;
    const auto at = [&](int64_t i, int64_t k) {
        const int64_t place = i * (i + 1) / 2 + k;
        return own.sums[place] + prior * pooled.sums[place];
    };
    double trace = 0;
    for (int64_t i = 0; i < columns; ++i) {
        trace += at(i, i);
    }
    const double mean = trace / static_cast<double>(columns);
    if (!(mean > 0) || !std::isfinite(mean)) {
        throw std::invalid_argument("the second moments are zero or not finite");
    }
    engine::parallel_for((columns + kRows - 1) / kRows, threads, [&](int64_t part) {
        for (int64_t i = part * kRows; i < std::min(columns, (part + 1) * kRows); ++i) {
            for (int64_t k = 0; k <= i; ++k) {
                double value = at(i, k) / mean;
                if (i == k) {
                    value += shrinkage.damping * value + shrinkage.level;
                }
                moments_[static_cast<size_t>(i * columns + k)] = static_cast<float>(value);
            }
        }
    });
    engine::parallel_for((columns + kRows - 1) / kRows, threads, [&](int64_t part) {
        for (int64_t i = part * kRows; i < std::min(columns, (part + 1) * kRows); ++i) {
            for (int64_t k = i + 1; k < columns; ++k) {
                moments_[static_cast<size_t>(i * columns + k)] =
                    moments_[static_cast<size_t>(k * columns + i)];
            }
        }
    });
    factorize(threads);
}

// Where rounding errors have left no positive pivot, the diagonal is raised until there is.
void Objective::factorize(int threads) {
    const KernelTable & kernels = dispatch::kernels();
    for (float raise = 1e-3f;; raise *= 10.f) {
        factors_ = moments_;
        for (int64_t last = columns_; last > 0; last -= kFactorPanel) {
            const int64_t first = std::max<int64_t>(last - kFactorPanel, 0);
            engine::parallel_for(1, 1, [&](int64_t) {  // in the exact floating-point mode
                kernels.factor_panel(factors_.data(), columns_, first, last, pivots_.data());
            });
            engine::parallel_for((first + kRows - 1) / kRows, threads, [&](int64_t part) {
                const int64_t row = part * kRows;
                kernels.subtract_panel(factors_.data(), columns_, first, last, pivots_.data(), row,
                                       std::min(kRows, first - row));
            });
        }
        if (std::all_of(pivots_.begin(), pivots_.end(),
                        [](float pivot) { return pivot > 0 && std::isfinite(pivot); })) {
            return;
        }
        if (raise > 2.f) {
            throw std::invalid_argument("the second moments are not those of any inputs");
        }
        for (int64_t i = 0; i < columns_; ++i) {
            moments_[static_cast<size_t>(i * columns_ + i)] += raise;
        }
    }
}

}  // namespace apex::rounding
