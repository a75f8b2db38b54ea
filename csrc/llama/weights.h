// The weights of a loaded model, which can be read and replaced while nothing runs it.
#pragma once

#include <ggml.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model.h"

namespace apex::llama {

// Changes weights of a model and gives them back. The model must be loaded as `replaceable`.
class Weights {
  public:
    explicit Weights(std::shared_ptr<Model> model);  // throws std::invalid_argument

    // Makes a tensor be of another type, with these bytes: the model then computes as one that was
    // loaded from a file with them. Throws std::invalid_argument where the model has no such
    // tensor, where the bytes are not those of its shape, and where they are more than the file's,
    // which is the room there is.
    void replace(const std::string & name, ggml_type type, const void * data, size_t bytes);

    // The bytes that the tensor has now. Throws std::invalid_argument.
    std::vector<char> read(const std::string & name) const;

    // Of the tensor as it is now. Throws std::invalid_argument.
    ggml_type type(const std::string & name) const;

  private:
    struct Place {
        std::vector<ggml_tensor *> tensors;  // several where libllama shares weights
        size_t room;                         // bytes in the file
    };
    const Place & place(const std::string & name) const;

    std::shared_ptr<Model> model_;
    std::map<std::string, Place> places_;
};

}  // namespace apex::llama
