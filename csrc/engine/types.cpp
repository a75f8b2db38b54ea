#include "types.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>

namespace apex::engine {

namespace {

std::string upper(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    return text;
}

// ggml_quantize_chunk aborts on the types that it has no case for, and ggml has no question for it.
// The quantized types that exist for activations only are those that cannot be read back.
bool has_quantizer(ggml_type type, const ggml_type_traits & traits) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 ||
           (traits.is_quantized && traits.to_float != nullptr);
}

std::vector<TypeFacts> collect() {
    std::vector<TypeFacts> result;
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const auto type = static_cast<ggml_type>(i);
        const ggml_type_traits & traits = *ggml_get_type_traits(type);
        if (traits.type_size == 0 || traits.type_name == nullptr) {
            continue;  // a number whose type was removed
        }
        const bool dequantizes = type == GGML_TYPE_F32 || traits.to_float != nullptr;
        result.push_back({type, upper(traits.type_name), traits.blck_size,
                          static_cast<int64_t>(traits.type_size), traits.is_quantized,
                          has_quantizer(type, traits), dequantizes,
                          ggml_quantize_requires_imatrix(type)});
    }
    return result;
}

}  // namespace

const std::vector<TypeFacts> & type_facts() {
    static const std::vector<TypeFacts> facts = collect();
    return facts;
}

ggml_type type_from_name(const std::string & name) {
    const std::string wanted = upper(name);
    for (const TypeFacts & facts : type_facts()) {
        if (facts.name == wanted) {
            return facts.type;
        }
    }
    throw std::invalid_argument("there is no tensor type '" + name + "'");
}

const TypeFacts & facts_of(ggml_type type) {
    for (const TypeFacts & facts : type_facts()) {
        if (facts.type == type) {
            return facts;
        }
    }
    throw std::invalid_argument("there is no tensor type " +
                                std::to_string(static_cast<int>(type)));
}

}  // namespace apex::engine
