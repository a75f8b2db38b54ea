// Log-probabilities from rows of logits, and how far two models are apart, by the definitions of
// llama.cpp's tools/perplexity. Which values are float and which double decides the last digits
// that are printed, so both are part of the definitions.
#pragma once

#include <cstdint>
#include <vector>

namespace apex::evaluate {

// Rows of logits over the vocabulary, one after another.
struct Logits {
    const float * data;
    int64_t rows;
    int64_t vocabulary;

    const float * row(int64_t i) const { return data + i * vocabulary; }
};

// A row and the token that in truth follows it.
struct Target {
    int64_t row;
    int32_t token;
};

// What a row says about the token that follows.
struct Score {
    double negative_log_likelihood;  // -ln p(token), as the perplexity takes it
    int32_t most_likely;             // the token that the model expects; of equals the first
};

void score(const Logits & logits, const std::vector<Target> & targets, int threads, Score * result);

// ln p(token), as the tasks take it: the sum over the vocabulary in float.
void log_probabilities(const Logits & logits, const std::vector<Target> & targets, int threads,
                       float * result);

// p(token) as a float; the tasks take the logarithm of the first token's.
void probabilities(const Logits & logits, const std::vector<Target> & targets, int threads,
                   float * result);

// uint16 values per row of a base file: two floats (scale, smallest log-probability), then one code
// per token of the vocabulary, padded to an even number.
int64_t code_size(int64_t vocabulary);

// One model against the base model at one position.
struct Divergence {
    double kl;                      // of the base model's distribution to this one's, in nats
    float negative_log_likelihood;  // of the token that follows
    float base_negative_log_likelihood;
    float probability_difference;  // p(token) less the base model's
    uint8_t same_top;              // 1 where both find the same token the most likely
    Score score;                   // of this model alone
};

// Against rows of a base file (llama-perplexity --kl-divergence-base), one per target.
void diverge(const Logits & logits, const std::vector<Target> & targets, const uint16_t * codes,
             int threads, Divergence * result);

// Models against the base model's logits themselves, all at the same targets: the same numbers as
// by way of a base file. Every row is read by one thread at one time, the base model's for all
// models together. Results are model by model. `codes` takes the rows of a base file, code_size()
// values each, or is null; with it, the base's scores are those that llama-perplexity prints while
// it writes one.
void compare(const Logits & base, const std::vector<Logits> & models,
             const std::vector<Target> & targets, int threads, uint16_t * codes,
             Score * base_scores, Divergence * result);

}  // namespace apex::evaluate
