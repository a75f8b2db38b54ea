// A model loaded by libllama, and its vocabulary.
#pragma once

#include <llama-cpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace apex::llama {

struct ModelOptions {
    bool mtp = false;              // with the multi-token-prediction layers
    bool vocabulary_only = false;  // without weights
    bool no_weights = false;       // metadata and sizes: to ask what a context would need
    bool replaceable = false;      // weights are kept in memory as they are in the file, not mapped
    int32_t gpu_layers = 0;        // layers on GPUs, from the last; negative: all
};

class Model {
  public:
    // Loads a GGUF file; what is not on GPUs is mapped. Throws ModelError, also where layers are
    // wanted on GPUs and there are none.
    Model(const std::string & path, const ModelOptions & options);

    llama_model * get() const { return model_.get(); }
    const llama_vocab * vocabulary() const { return llama_model_get_vocab(model_.get()); }
    bool is_replaceable() const { return replaceable_; }
    int32_t vocabulary_size() const { return llama_vocab_n_tokens(vocabulary()); }

    // special: whether the tokens that begin (and end) a text are added; parse_special: whether the
    // names of special tokens in the text become those tokens.
    std::vector<llama_token> tokenize(const std::string & text, bool add_special,
                                      bool parse_special) const;
    std::string piece(llama_token token) const;

    // The messages (role, content) as the model's own template writes them, or nothing where it
    // has none that libllama knows.
    std::optional<std::string> render_chat(
        const std::vector<std::pair<std::string, std::string>> & messages) const;

    // The first token that differs between two vocabularies, or -1.
    int32_t first_difference(const Model & other) const;

  private:
    llama_model_ptr model_;
    bool replaceable_;
};

}  // namespace apex::llama
