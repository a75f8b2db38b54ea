#include "likelihood.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/parallel.h"

namespace apex::evaluate {

namespace {

// Log-probabilities further than this below the largest are not told apart in a base file.
constexpr float RANGE = 16.0f;
constexpr int64_t HEADER = 4;  // of uint16: two floats

float largest(const float * logits, int64_t count) {
    float result = logits[0];
    for (int64_t i = 1; i < count; ++i) {
        result = std::max(result, logits[i]);
    }
    return result;
}

double sum_of_exponentials(const float * logits, int64_t count, float max) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        sum += std::exp(logits[i] - max);
    }
    return sum;
}

// Rounds to nearest, ties to even, by adding 1.5 * 2^23.
uint16_t nearest(float value) {
    value += 12582912.f;
    int32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return static_cast<uint16_t>((bits & 0x007fffff) - 0x00400000);
}

// Writes one row of a base file; returns ln of the sum of exponentials, over the largest logit.
float encode_row(const float * logits, int64_t vocabulary, uint16_t * codes) {
    const float max = largest(logits, vocabulary);
    float min = logits[0];
    for (int64_t i = 1; i < vocabulary; ++i) {
        min = std::min(min, logits[i]);
    }
    min = std::max(min, max - RANGE);
    const auto log_sum = static_cast<float>(std::log(sum_of_exponentials(logits, vocabulary, max)));
    const float header[2] = {(max - min) / 65535.f, min - max - log_sum};
    std::memcpy(codes, header, sizeof(header));
    codes += HEADER;
    if (header[0] == 0) {
        std::fill_n(codes, vocabulary, uint16_t{0});
    } else {
        const float inverse = 1 / header[0];
        for (int64_t i = 0; i < vocabulary; ++i) {
            codes[i] = logits[i] > min ? nearest(inverse * (logits[i] - min)) : uint16_t{0};
        }
    }
    if (vocabulary % 2 != 0) {
        codes[vocabulary] = 0;
    }
    return log_sum;
}

Divergence diverge_row(const float * logits, int64_t vocabulary, const uint16_t * codes,
                       int32_t token) {
    const auto top = std::max_element(logits, logits + vocabulary);
    const float max = *top;
    const auto log_sum = static_cast<float>(std::log(sum_of_exponentials(logits, vocabulary, max)));
    float header[2];
    std::memcpy(header, codes, sizeof(header));
    codes += HEADER;
    const auto base = [&](int64_t i) { return header[0] * codes[i] + header[1]; };

    Divergence result{};
    result.negative_log_likelihood = max + log_sum - logits[token];
    result.base_negative_log_likelihood = -base(token);
    const float offset = max + log_sum;
    int64_t base_top = 0;
    float base_max = base(0);
    for (int64_t i = 0; i < vocabulary; ++i) {
        const float log_probability = base(i);
        if (log_probability > base_max) {
            base_max = log_probability;
            base_top = i;
        }
        if (log_probability > -RANGE) {
            result.kl += std::exp(log_probability) * (log_probability - logits[i] + offset);
        }
    }
    result.same_top = top - logits == base_top ? 1 : 0;
    result.probability_difference =
        std::exp(-result.negative_log_likelihood) - std::exp(-result.base_negative_log_likelihood);
    return result;
}

}  // namespace

void negative_log_likelihoods(const Logits & logits, const std::vector<Target> & targets,
                              int threads, double * result) {
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        const Target & target = targets[static_cast<size_t>(i)];
        const float * row = logits.row(target.row);
        const float max = largest(row, logits.vocabulary);
        const double sum = sum_of_exponentials(row, logits.vocabulary, max);
        result[i] = -(row[target.token] - max - std::log(sum));
    });
}

void log_probabilities(const Logits & logits, const std::vector<Target> & targets, int threads,
                       float * result) {
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        const Target & target = targets[static_cast<size_t>(i)];
        const float * row = logits.row(target.row);
        const float max = largest(row, logits.vocabulary);
        float sum = 0.f;
        for (int64_t j = 0; j < logits.vocabulary; ++j) {
            sum += std::exp(row[j] - max);
        }
        result[i] = row[target.token] - max - std::log(sum);
    });
}

void probabilities(const Logits & logits, const std::vector<Target> & targets, int threads,
                   float * result) {
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        const Target & target = targets[static_cast<size_t>(i)];
        const float * row = logits.row(target.row);
        const float max = largest(row, logits.vocabulary);
        const double sum = sum_of_exponentials(row, logits.vocabulary, max);
        result[i] = static_cast<float>(std::exp(row[target.token] - max) / sum);
    });
}

void most_likely(const Logits & logits, const std::vector<int64_t> & rows, int threads,
                 int32_t * result) {
    engine::parallel_for(static_cast<int64_t>(rows.size()), threads, [&](int64_t i) {
        const float * row = logits.row(rows[static_cast<size_t>(i)]);
        result[i] = static_cast<int32_t>(std::max_element(row, row + logits.vocabulary) - row);
    });
}

int64_t code_size(int64_t vocabulary) {
    return 2 * ((vocabulary + 1) / 2) + HEADER;
}

void encode(const Logits & logits, const std::vector<Target> & targets, int threads,
            uint16_t * codes, double * negative_log_likelihood) {
    const int64_t size = code_size(logits.vocabulary);
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        const Target & target = targets[static_cast<size_t>(i)];
        const float * row = logits.row(target.row);
        const float log_sum = encode_row(row, logits.vocabulary, codes + i * size);
        const float max = largest(row, logits.vocabulary);
        negative_log_likelihood[i] = max + log_sum - row[target.token];
    });
}

void diverge(const Logits & logits, const std::vector<Target> & targets, const uint16_t * codes,
             int threads, Divergence * result) {
    const int64_t size = code_size(logits.vocabulary);
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        const Target & target = targets[static_cast<size_t>(i)];
        result[i] =
            diverge_row(logits.row(target.row), logits.vocabulary, codes + i * size, target.token);
    });
}

void diverge(const Logits & logits, const std::vector<Target> & targets, const Logits & base,
             const std::vector<int64_t> & base_rows, int threads, Divergence * result) {
    const auto size = static_cast<size_t>(code_size(logits.vocabulary));
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        thread_local std::vector<uint16_t> codes;
        codes.resize(size);
        const Target & target = targets[static_cast<size_t>(i)];
        encode_row(base.row(base_rows[static_cast<size_t>(i)]), logits.vocabulary, codes.data());
        result[i] =
            diverge_row(logits.row(target.row), logits.vocabulary, codes.data(), target.token);
    });
}

}  // namespace apex::evaluate
