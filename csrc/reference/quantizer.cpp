#include "quantizer.h"

#include <llama.h>

#include "guard/guard.h"

namespace apex::reference {

void quantize_with_llama(const std::string & input, const std::string & output,
                         const Options & options) {
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.nthread = options.threads;
    params.ftype = options.rules.file_type;
    params.output_tensor_type = options.rules.output_tensor_type.value_or(GGML_TYPE_COUNT);
    params.token_embedding_type = options.rules.token_embedding_type.value_or(GGML_TYPE_COUNT);
    params.pure = options.rules.pure;
    params.quantize_output_tensor = options.rules.quantize_output_tensor;
    params.only_copy = options.rules.copy;
    params.allow_requantize = options.allow_requantize;
    params.keep_split = options.keep_split;

    std::vector<llama_model_imatrix_data> importance;
    for (const auto & [name, values] : options.importance) {
        importance.push_back({name.c_str(), values.data(), values.size()});
    }
    importance.push_back({nullptr, nullptr, 0});
    params.imatrix = options.importance.empty() ? nullptr : importance.data();

    std::vector<llama_model_tensor_override> tensor_types;
    for (const auto & [pattern, type] : options.tensor_types) {
        tensor_types.push_back({pattern.c_str(), type});
    }
    tensor_types.push_back({nullptr, GGML_TYPE_COUNT});
    params.tt_overrides = options.tensor_types.empty() ? nullptr : tensor_types.data();

    std::vector<llama::KeyOverride> overrides = options.rules.overrides;
    overrides.push_back(llama::KeyOverride{});
    params.kv_overrides = options.rules.overrides.empty() ? nullptr : overrides.data();

    guard::Scope scope;
    try {
        if (llama_model_quantize(input.c_str(), output.c_str(), &params) != 0) {
            throw llama::ModelError(scope.errors());
        }
    } catch (const guard::UpstreamError & error) {
        throw llama::ModelError(error.what());
    }
}

}  // namespace apex::reference
