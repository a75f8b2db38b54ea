#include "weights.h"

#include <ggml-backend.h>
#include <llama-model.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "guarded.h"

namespace apex::llama {

namespace {

// As ggml_new_tensor lays a tensor out.
void set_type(ggml_tensor & tensor, ggml_type type) {
    tensor.type = type;
    tensor.nb[0] = ggml_type_size(type);
    tensor.nb[1] = ggml_row_size(type, tensor.ne[0]);
    for (int i = 2; i < GGML_MAX_DIMS; ++i) {
        tensor.nb[i] = tensor.nb[i - 1] * static_cast<size_t>(tensor.ne[i - 1]);
    }
}

}  // namespace

Weights::Weights(std::shared_ptr<Model> model) : model_(std::move(model)) {
    if (!model_->is_replaceable()) {
        throw std::invalid_argument("the model was not loaded as replaceable");
    }
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(model_->get())) {
        Place & place = places_[name];
        const auto known = [data = tensor->data](const ggml_tensor * t) { return t->data == data; };
        if (std::any_of(place.tensors.begin(), place.tensors.end(), known)) {
            continue;
        }
        place.tensors.push_back(tensor);
        place.room = ggml_nbytes(tensor);
    }
}

const Weights::Place & Weights::place(const std::string & name) const {
    const auto found = places_.find(name);
    if (found == places_.end()) {
        throw std::invalid_argument("the model has no tensor " + name);
    }
    return found->second;
}

void Weights::replace(const std::string & name, ggml_type type, const void * data, size_t bytes) {
    const Place & where = place(name);
    const ggml_tensor & shape = *where.tensors.front();
    if (shape.ne[0] % ggml_blck_size(type) != 0) {
        throw std::invalid_argument("the rows of " + name + " are not whole blocks of the type");
    }
    const size_t wanted = ggml_row_size(type, shape.ne[0]) *
                          static_cast<size_t>(shape.ne[1] * shape.ne[2] * shape.ne[3]);
    if (bytes != wanted || bytes > where.room) {
        throw std::invalid_argument(name + " takes " + std::to_string(wanted) +
                                    " bytes of at most " + std::to_string(where.room));
    }
    guarded("the weights cannot be replaced", [&](guard::Scope &) {
        for (ggml_tensor * tensor : where.tensors) {
            set_type(*tensor, type);
            ggml_backend_tensor_set(tensor, data, 0, bytes);
        }
    });
}

std::vector<char> Weights::read(const std::string & name) const {
    const ggml_tensor * tensor = place(name).tensors.front();
    std::vector<char> bytes(ggml_nbytes(tensor));
    guarded("the weights cannot be read", [&](guard::Scope &) {
        ggml_backend_tensor_get(tensor, bytes.data(), 0, bytes.size());
    });
    return bytes;
}

ggml_type Weights::type(const std::string & name) const {
    return place(name).tensors.front()->type;
}

}  // namespace apex::llama
