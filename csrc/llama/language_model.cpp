#include "language_model.h"

#include <stdexcept>
#include <thread>

#include "guard/guard.h"
#include "type_rules.h"

namespace apex::llama {

namespace {

ModelError failure(const guard::Scope & scope, const char * what) {
    const std::string log = scope.errors();
    return ModelError(log.empty() ? std::string(what) : std::string(what) + ": " + log);
}

// Upstream's assertions throw on this thread inside a Scope; the caller sees one kind of error.
template <typename Function>
auto guarded(const char * what, Function && function) {
    guard::Scope scope;
    try {
        return function(scope);
    } catch (const guard::UpstreamError & error) {
        throw ModelError(std::string(what) + ": " + error.what());
    }
}

}  // namespace

LanguageModel::LanguageModel(const std::string & path, uint32_t context_length, int threads) {
    guarded("libllama cannot load the model", [&](guard::Scope & scope) {
        llama_backend_init();
        llama_model_params model_params = llama_model_default_params();
        model_params.n_gpu_layers = 0;
        model_.reset(llama_model_load_from_file(path.c_str(), model_params));
        if (model_ == nullptr) {
            throw failure(scope, "libllama cannot load the model");
        }
        llama_context_params context_params = llama_context_default_params();
        context_params.n_ctx = context_length;
        context_params.n_batch = context_length;
        if (threads > 0) {
            context_params.n_threads = threads;
            context_params.n_threads_batch = threads;
        }
        context_.reset(llama_init_from_model(model_.get(), context_params));
        if (context_ == nullptr) {
            throw failure(scope, "libllama cannot make a context");
        }
    });
}

std::vector<llama_token> LanguageModel::tokenize(const std::string & text) const {
    return guarded("libllama cannot tokenize", [&](guard::Scope &) {
        const llama_vocab * vocabulary = llama_model_get_vocab(model_.get());
        const auto length = static_cast<int32_t>(text.size());
        const int32_t count =
            -llama_tokenize(vocabulary, text.data(), length, nullptr, 0, true, true);
        std::vector<llama_token> tokens(static_cast<size_t>(count > 0 ? count : 0));
        llama_tokenize(vocabulary, text.data(), length, tokens.data(), count, true, true);
        return tokens;
    });
}

std::string LanguageModel::piece(llama_token token) const {
    const llama_vocab * vocabulary = llama_model_get_vocab(model_.get());
    std::string text(256, '\0');
    const int32_t length = llama_token_to_piece(vocabulary, token, text.data(),
                                                static_cast<int32_t>(text.size()), 0, true);
    text.resize(static_cast<size_t>(length > 0 ? length : 0));
    return text;
}

int32_t LanguageModel::vocabulary_size() const {
    return llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
}

std::vector<float> LanguageModel::logits(const std::vector<llama_token> & tokens) {
    if (tokens.empty() || tokens.size() > llama_n_ctx(context_.get())) {
        throw std::invalid_argument(
            "there must be at least one token and no more than the context");
    }
    const int32_t size = vocabulary_size();
    for (const llama_token token : tokens) {
        if (token < 0 || token >= size) {
            throw std::invalid_argument("token " + std::to_string(token) +
                                        " is not in the vocabulary");
        }
    }
    return guarded("libllama cannot run the model", [&](guard::Scope & scope) {
        llama_memory_clear(llama_get_memory(context_.get()), true);
        llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
        for (const llama_token token : tokens) {
            const int32_t i = batch.n_tokens++;
            batch.token[i] = token;
            batch.pos[i] = i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        const int32_t status = llama_decode(context_.get(), batch);
        llama_batch_free(batch);
        if (status != 0) {
            throw failure(scope, "libllama cannot run the model");
        }
        const float * values = llama_get_logits(context_.get());
        return std::vector<float>(values, values + tokens.size() * static_cast<size_t>(size));
    });
}

}  // namespace apex::llama
