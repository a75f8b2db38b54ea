// llama.cpp's own quantizer of whole files: the reference that apex is compared with.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "llama/type_rules.h"

namespace apex::reference {

struct Options {
    llama::RuleOptions rules;
    std::vector<std::pair<std::string, ggml_type>> tensor_types;  // pattern, type
    std::map<std::string, std::vector<float>> importance;
    bool allow_requantize = false;
    bool keep_split = false;
    int threads = 0;
};

// Runs llama_model_quantize. Throws llama::ModelError with what it logged.
void quantize_with_llama(const std::string & input, const std::string & output,
                         const Options & options);

}  // namespace apex::reference
