// What Python says about llama.cpp's type rules.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "llama/type_rules.h"

namespace apex::bind {

using OptionalName = std::optional<std::string>;
using KeyValue = std::variant<bool, int64_t, double, std::string>;
using KeyValues = std::vector<std::pair<std::string, KeyValue>>;

// Throws py::value_error for a name that is not one of a type, and for texts that are too long.
llama::RuleOptions to_rule_options(const std::string & file_type,
                                   const OptionalName & output_tensor_type,
                                   const OptionalName & token_embedding_type, bool pure,
                                   bool quantize_output_tensor, bool copy, bool has_importance,
                                   const KeyValues & overrides);

std::optional<ggml_type> to_optional_type(const OptionalName & name);

}  // namespace apex::bind
