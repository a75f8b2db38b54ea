#include "rule_options.h"

#include <cstring>

#include "arguments.h"

namespace apex::bind {

namespace {

using llama::KeyOverride;
using llama::RuleOptions;

void copy_text(char (&target)[128], const std::string & text, const char * what) {
    if (text.size() >= sizeof(target)) {
        throw py::value_error(std::string(what) + " must be shorter than 128 bytes");
    }
    std::memcpy(target, text.c_str(), text.size() + 1);
}

KeyOverride to_override(const std::string & key, const KeyValue & value) {
    KeyOverride result{};
    copy_text(result.key, key, "a key");
    if (const auto * flag = std::get_if<bool>(&value)) {
        result.tag = LLAMA_KV_OVERRIDE_TYPE_BOOL;
        result.val_bool = *flag;
    } else if (const auto * integer = std::get_if<int64_t>(&value)) {
        result.tag = LLAMA_KV_OVERRIDE_TYPE_INT;
        result.val_i64 = *integer;
    } else if (const auto * number = std::get_if<double>(&value)) {
        result.tag = LLAMA_KV_OVERRIDE_TYPE_FLOAT;
        result.val_f64 = *number;
    } else {
        result.tag = LLAMA_KV_OVERRIDE_TYPE_STR;
        copy_text(result.val_str, std::get<std::string>(value), "a text value");
    }
    return result;
}

llama_ftype to_file_type(const std::string & name) {
    for (const llama::FileType & type : llama::file_types()) {
        if (name == type.name) {
            return type.type;
        }
    }
    throw py::value_error("there is no file type '" + name + "'");
}

}  // namespace

std::optional<ggml_type> to_optional_type(const OptionalName & name) {
    return name ? std::optional(to_type(*name)) : std::nullopt;
}

RuleOptions to_rule_options(const std::string & file_type, const OptionalName & output_tensor_type,
                            const OptionalName & token_embedding_type, bool pure,
                            bool quantize_output_tensor, bool copy, bool has_importance,
                            const KeyValues & overrides) {
    RuleOptions options;
    options.file_type = to_file_type(file_type);
    options.output_tensor_type = to_optional_type(output_tensor_type);
    options.token_embedding_type = to_optional_type(token_embedding_type);
    options.pure = pure;
    options.quantize_output_tensor = quantize_output_tensor;
    options.copy = copy;
    options.has_importance = has_importance;
    for (const auto & [key, value] : overrides) {
        options.overrides.push_back(to_override(key, value));
    }
    return options;
}

}  // namespace apex::bind
