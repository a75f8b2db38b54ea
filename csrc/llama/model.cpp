#include "model.h"

#include <algorithm>
#include <cstring>

#include "devices.h"
#include "guarded.h"

namespace apex::llama {

Model::Model(const std::string & path, const ModelOptions & options)
    : replaceable_(options.replaceable) {
    find_devices();
    guarded("libllama cannot load the model", [&](guard::Scope & scope) {
        llama_backend_init();
        llama_model_params params = llama_model_default_params();
        // Without a list libllama takes every GPU, also to compute what the CPU keeps. With an
        // empty one nothing is offloaded, whatever the context asks for: all layers are the CPU's.
        static ggml_backend_dev_t none[] = {nullptr};
        params.n_gpu_layers = options.gpu_layers;
        if (options.gpu_layers == 0) {
            params.devices = none;
        } else if (!llama_supports_gpu_offload()) {
            throw ModelError("no GPU was found");  // libllama would take the CPU, silently
        }
        params.load_mtp = options.mtp;
        params.vocab_only = options.vocabulary_only;
        params.no_alloc = options.no_weights;
        if (options.no_weights || options.replaceable) {
            params.load_mode = LLAMA_LOAD_MODE_NONE;
        }
        params.use_extra_bufts = !options.replaceable;  // those hold weights in other orders
        model_.reset(llama_model_load_from_file(path.c_str(), params));
        if (model_ == nullptr) {
            throw failure(scope, "libllama cannot load the model");
        }
    });
}

std::vector<llama_token> Model::tokenize(const std::string & text, bool add_special,
                                         bool parse_special) const {
    return guarded("libllama cannot tokenize", [&](guard::Scope &) {
        const auto length = static_cast<int32_t>(text.size());
        const int32_t count = -llama_tokenize(vocabulary(), text.data(), length, nullptr, 0,
                                              add_special, parse_special);
        std::vector<llama_token> tokens(static_cast<size_t>(std::max(count, 0)));
        llama_tokenize(vocabulary(), text.data(), length, tokens.data(), count, add_special,
                       parse_special);
        return tokens;
    });
}

std::string Model::piece(llama_token token) const {
    std::string text(256, '\0');
    const int32_t length = llama_token_to_piece(vocabulary(), token, text.data(),
                                                static_cast<int32_t>(text.size()), 0, true);
    text.resize(static_cast<size_t>(std::max(length, 0)));
    return text;
}

std::optional<std::string> Model::render_chat(
    const std::vector<std::pair<std::string, std::string>> & messages) const {
    return guarded("libllama cannot apply the chat template", [&](guard::Scope &) {
        using Text = std::optional<std::string>;
        const char * name = llama_model_chat_template(model_.get(), nullptr);
        if (name == nullptr) {
            return Text();
        }
        std::vector<llama_chat_message> chat;
        for (const auto & [role, content] : messages) {
            chat.push_back({role.c_str(), content.c_str()});
        }
        std::string text;
        const int32_t size =
            llama_chat_apply_template(name, chat.data(), chat.size(), false, text.data(), 0);
        if (size < 0) {
            return Text();
        }
        text.resize(static_cast<size_t>(size));
        llama_chat_apply_template(name, chat.data(), chat.size(), false, text.data(), size);
        return Text(text);
    });
}

int32_t Model::first_difference(const Model & other) const {
    const int32_t size = std::min(vocabulary_size(), other.vocabulary_size());
    for (llama_token token = 0; token < size; ++token) {
        if (std::strcmp(llama_vocab_get_text(vocabulary(), token),
                        llama_vocab_get_text(other.vocabulary(), token)) != 0) {
            return token;
        }
    }
    return vocabulary_size() == other.vocabulary_size() ? -1 : size;
}

}  // namespace apex::llama
