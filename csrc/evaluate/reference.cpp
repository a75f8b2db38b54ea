#include "reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/parallel.h"

namespace apex::evaluate {

namespace {

// ln of the sum of exp over a row, and the sum itself over its largest.
struct Total {
    float max;
    double sum;
    double log() const { return max + std::log(sum); }
};

Total total_of(const float * logits, int64_t vocabulary) {
    const float max = *std::max_element(logits, logits + vocabulary);
    double sum = 0.0;
    for (int64_t i = 0; i < vocabulary; ++i) {
        sum += std::exp(logits[i] - max);
    }
    return {max, sum};
}

}  // namespace

Reference::Reference(int64_t vocabulary, int64_t top)
    : vocabulary_(vocabulary), top_(top < vocabulary ? top : 0) {}

int64_t Reference::row_bytes(int64_t vocabulary, int64_t top) {
    return top > 0 && top < vocabulary ? top * 8 + 8 : vocabulary * 4;
}

void Reference::add(const Logits & logits, const std::vector<int64_t> & rows, int threads) {
    const int64_t width = kept();
    const int64_t first = rows_;
    rows_ += static_cast<int64_t>(rows.size());
    logs_.resize(static_cast<size_t>(rows_ * width));
    if (top_ > 0) {
        tokens_.resize(static_cast<size_t>(rows_ * width));
        tails_.resize(static_cast<size_t>(rows_));
    }
    engine::parallel_for(static_cast<int64_t>(rows.size()), threads, [&](int64_t i) {
        const float * row = logits.row(rows[static_cast<size_t>(i)]);
        float * log = logs_.data() + (first + i) * width;
        const double total = total_of(row, vocabulary_).log();
        if (top_ == 0) {
            for (int64_t k = 0; k < width; ++k) {
                log[k] = static_cast<float>(row[k] - total);
            }
            return;
        }
        std::vector<int32_t> order(static_cast<size_t>(vocabulary_));
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(
            order.begin(), order.begin() + width, order.end(),
            [row](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
        int32_t * token = tokens_.data() + (first + i) * width;
        double tail = 0.0;
        for (int64_t k = 0; k < vocabulary_; ++k) {
            const int32_t id = order[static_cast<size_t>(k)];
            if (k < width) {
                token[k] = id;
                log[k] = static_cast<float>(row[id] - total);
            } else {
                tail += std::exp(row[id] - total);
            }
        }
        tails_[static_cast<size_t>(first + i)] = tail;
    });
}

void Reference::diverge(int64_t first, const Logits & logits, const std::vector<int64_t> & rows,
                        int threads, double * result) const {
    const int64_t width = kept();
    engine::parallel_for(static_cast<int64_t>(rows.size()), threads, [&](int64_t i) {
        const float * row = logits.row(rows[static_cast<size_t>(i)]);
        const float * log = logs_.data() + (first + i) * width;
        const int32_t * token = top_ > 0 ? tokens_.data() + (first + i) * width : nullptr;
        const Total other = total_of(row, vocabulary_);
        const double total = other.log();
        double kl = 0.0, seen = 0.0;
        for (int64_t k = 0; k < width; ++k) {
            const float logit = row[token != nullptr ? token[k] : k];
            kl += std::exp(log[k]) * (log[k] - (logit - total));
            seen += std::exp(logit - other.max);
        }
        if (top_ > 0) {
            const double tail = tails_[static_cast<size_t>(first + i)];
            const double rest =
                std::max(1.0 - seen / other.sum, std::numeric_limits<double>::min());
            kl += tail > 0 ? tail * (std::log(tail) - std::log(rest)) : 0.0;
        }
        result[i] = kl;
    });
}

}  // namespace apex::evaluate
