// A model loaded by libllama, to see that a file works: text to tokens, tokens to probabilities.
#pragma once

#include <llama.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace apex::llama {

class LanguageModel {
  public:
    // Loads a GGUF file on the CPU. Throws ModelError.
    LanguageModel(const std::string & path, uint32_t context_length, int threads);

    std::vector<llama_token> tokenize(const std::string & text) const;
    std::string piece(llama_token token) const;
    int32_t vocabulary_size() const;

    // Logits over the vocabulary for the token that follows each of `tokens`, one row per token.
    // Starts from an empty context every time. Throws ModelError, and std::invalid_argument for
    // tokens that are none or too many.
    std::vector<float> logits(const std::vector<llama_token> & tokens);

  private:
    struct FreeModel {
        void operator()(llama_model * model) const { llama_model_free(model); }
    };
    struct FreeContext {
        void operator()(llama_context * context) const { llama_free(context); }
    };

    std::unique_ptr<llama_model, FreeModel> model_;
    std::unique_ptr<llama_context, FreeContext> context_;
};

}  // namespace apex::llama
