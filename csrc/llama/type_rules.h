// llama.cpp's own decisions about a model's tensors: their order in a file, which of them may be
// quantized, and the type that a file type such as Q4_K_M gives to each.
#pragma once

#include <gguf.h>
#include <llama.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace apex::llama {

// libllama does not know the architecture, or misses something in the model's metadata.
class ModelError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct FileType {
    const char * name;  // as llama-quantize spells it: Q4_K_M, IQ2_XXS, F16
    llama_ftype type;
    ggml_type default_type;  // of the tensors that no rule of the file type names
};

const std::vector<FileType> & file_types();

// A metadata key that is replaced (llama-quantize --override-kv).
using KeyOverride = llama_model_kv_override;

struct RuleOptions {
    llama_ftype file_type = LLAMA_FTYPE_MOSTLY_Q8_0;
    std::optional<ggml_type> output_tensor_type;
    std::optional<ggml_type> token_embedding_type;
    bool pure = false;  // no mixture: the default type for every tensor
    bool quantize_output_tensor = true;
    bool copy = false;            // keep every tensor as it is
    bool has_importance = false;  // some file types give other types then
    std::vector<KeyOverride> overrides;
};

struct TensorQuery {
    std::string name;
    std::vector<int64_t> shape;  // columns first
    ggml_type type;
    std::optional<ggml_type> forced;  // the type that an override asks for
};

struct TensorDecision {
    bool may_quantize = false;         // false: llama.cpp keeps this tensor's type
    ggml_type wanted = GGML_TYPE_F32;  // before a fallback for the row length
    ggml_type type = GGML_TYPE_F32;    // what llama.cpp writes
    bool needs_importance = false;     // llama.cpp refuses to write the type without one
};

// The order in which llama.cpp writes tensors of these names into a single file.
std::vector<size_t> output_order(const std::vector<std::string> & names);

// Decides for all tensors, which must be given in the order of the output: some rules count
// tensors. `metadata` is that of the model's first file and must outlive the call. Throws
// ModelError, and std::invalid_argument if a tensor cannot be described to ggml.
std::vector<TensorDecision> decide_types(gguf_context * metadata, const std::string & path,
                                         const RuleOptions & options,
                                         const std::vector<TensorQuery> & tensors);

}  // namespace apex::llama
