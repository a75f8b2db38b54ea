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

// What every number of a row begins with.
struct Row {
    const float * logits;
    int64_t vocabulary;
    int64_t top;  // the first of the largest
    float max;
    double sum;  // of exp(logit - max)
};

Row read_row(const float * logits, int64_t vocabulary) {
    const float * top = std::max_element(logits, logits + vocabulary);
    double sum = 0.0;
    for (int64_t i = 0; i < vocabulary; ++i) {
        sum += std::exp(logits[i] - *top);
    }
    return {logits, vocabulary, top - logits, *top, sum};
}

Score score_row(const Row & row, int32_t token) {
    return {-(row.logits[token] - row.max - std::log(row.sum)), static_cast<int32_t>(row.top)};
}

// Rounds to nearest, ties to even, by adding 1.5 * 2^23.
uint16_t nearest(float value) {
    value += 12582912.f;
    int32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return static_cast<uint16_t>((bits & 0x007fffff) - 0x00400000);
}

// Writes one row of a base file; returns -ln p(token) as llama-perplexity takes it meanwhile.
float encode_row(const Row & row, int32_t token, uint16_t * codes) {
    const float * logits = row.logits;
    const float max = row.max;
    const float min = std::max(*std::min_element(logits, logits + row.vocabulary), max - RANGE);
    const auto log_sum = static_cast<float>(std::log(row.sum));
    const float header[2] = {(max - min) / 65535.f, min - max - log_sum};
    std::memcpy(codes, header, sizeof(header));
    codes += HEADER;
    if (header[0] == 0) {
        std::fill_n(codes, row.vocabulary, uint16_t{0});
    } else {
        const float inverse = 1 / header[0];
        for (int64_t i = 0; i < row.vocabulary; ++i) {
            codes[i] = logits[i] > min ? nearest(inverse * (logits[i] - min)) : uint16_t{0};
        }
    }
    if (row.vocabulary % 2 != 0) {
        codes[row.vocabulary] = 0;
    }
    return max + log_sum - logits[token];
}

Divergence diverge_row(const Row & row, const uint16_t * codes, int32_t token) {
    const float * logits = row.logits;
    const auto log_sum = static_cast<float>(std::log(row.sum));
    float header[2];
    std::memcpy(header, codes, sizeof(header));
    codes += HEADER;
    const auto base = [&](int64_t i) { return header[0] * codes[i] + header[1]; };

    Divergence result{};
    result.score = score_row(row, token);
    result.negative_log_likelihood = row.max + log_sum - logits[token];
    result.base_negative_log_likelihood = -base(token);
    const float offset = row.max + log_sum;
    int64_t base_top = 0;
    float base_max = base(0);
    for (int64_t i = 0; i < row.vocabulary; ++i) {
        const float log_probability = base(i);
        if (log_probability > base_max) {
            base_max = log_probability;
            base_top = i;
        }
        if (log_probability > -RANGE) {
            result.kl += std::exp(log_probability) * (log_probability - logits[i] + offset);
        }
    }
    result.same_top = row.top == base_top ? 1 : 0;
    result.probability_difference =
        std::exp(-result.negative_log_likelihood) - std::exp(-result.base_negative_log_likelihood);
    return result;
}

}  // namespace

void score(const Logits & logits, const std::vector<Target> & targets, int threads,
           Score * result) {
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        const Target & target = targets[static_cast<size_t>(i)];
        result[i] = score_row(read_row(logits.row(target.row), logits.vocabulary), target.token);
    });
}

void log_probabilities(const Logits & logits, const std::vector<Target> & targets, int threads,
                       float * result) {
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        const Target & target = targets[static_cast<size_t>(i)];
        const float * row = logits.row(target.row);
        const float max = *std::max_element(row, row + logits.vocabulary);
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
        const Row row = read_row(logits.row(target.row), logits.vocabulary);
        result[i] = static_cast<float>(std::exp(row.logits[target.token] - row.max) / row.sum);
    });
}

int64_t code_size(int64_t vocabulary) {
    return 2 * ((vocabulary + 1) / 2) + HEADER;
}

void diverge(const Logits & logits, const std::vector<Target> & targets, const uint16_t * codes,
             int threads, Divergence * result) {
    const int64_t size = code_size(logits.vocabulary);
    engine::parallel_for(static_cast<int64_t>(targets.size()), threads, [&](int64_t i) {
        const Target & target = targets[static_cast<size_t>(i)];
        const Row row = read_row(logits.row(target.row), logits.vocabulary);
        result[i] = diverge_row(row, codes + i * size, target.token);
    });
}

void compare(const Logits & base, const std::vector<Logits> & models,
             const std::vector<Target> & targets, int threads, uint16_t * codes,
             Score * base_scores, Divergence * result) {
    const int64_t size = code_size(base.vocabulary);
    const auto count = static_cast<int64_t>(targets.size());
    engine::parallel_for(count, threads, [&](int64_t i) {
        thread_local std::vector<uint16_t> own_codes;
        own_codes.resize(static_cast<size_t>(size));
        uint16_t * row_codes = codes != nullptr ? codes + i * size : own_codes.data();
        const Target & target = targets[static_cast<size_t>(i)];
        const Row row = read_row(base.row(target.row), base.vocabulary);
        base_scores[i] = score_row(row, target.token);
        if (codes != nullptr || !models.empty()) {
            const float encoded = encode_row(row, target.token, row_codes);
            if (codes != nullptr) {
                base_scores[i].negative_log_likelihood = encoded;
            }
        }
        for (size_t k = 0; k < models.size(); ++k) {
            const Row other = read_row(models[k].row(target.row), base.vocabulary);
            result[static_cast<int64_t>(k) * count + i] =
                diverge_row(other, row_codes, target.token);
        }
    });
}

}  // namespace apex::evaluate
