// What there is to know about a tensor type, from ggml's own tables.
#pragma once

#include <ggml.h>

#include <cstdint>
#include <string>
#include <vector>

namespace apex::engine {

struct TypeFacts {
    ggml_type type;
    std::string name;       // upper case, as in llama.cpp's documents: Q4_K, IQ2_XS, BF16
    int64_t block_weights;  // weights in a block
    int64_t block_bytes;
    bool is_quantized;
    bool has_quantizer;     // quantize() can write it
    bool has_dequantizer;   // dequantize() can read it
    bool needs_importance;  // quantize() refuses to write it without an importance row
};

// Every type of this ggml, in the order of its numbers.
const std::vector<TypeFacts> & type_facts();

// The type of that name, in any case. Throws std::invalid_argument if there is none.
ggml_type type_from_name(const std::string & name);

const TypeFacts & facts_of(ggml_type type);

}  // namespace apex::engine
