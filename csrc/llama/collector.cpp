#include "collector.h"

#include <ggml-backend.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace apex::llama {

namespace {

// llama-imatrix ignores products with fewer rows; they are not a prompt.
constexpr int64_t FEWEST_ROWS = 16;

// A scheduler renames copies on devices: CUDA0#blk.0.attn_k.weight#0.
std::string weight_name(const ggml_tensor * weights) {
    std::string name = weights->name;
    const size_t first = name.find('#');
    if (first == std::string::npos) {
        return name;
    }
    const size_t second = name.find('#', first + 1);
    return name.substr(first + 1, second == std::string::npos ? second : second - first - 1);
}

// The layer of blk.N.…, or -1.
int layer_of(const std::string & name) {
    return name.compare(0, 4, "blk.") == 0 ? std::atoi(name.c_str() + 4) : -1;
}

bool is_output(const std::string & name) {
    return name == "output.weight" || name == "token_embd.weight";
}

// The CUDA device that a buffer is on, or -1; ggml calls it CUDA and its number.
int cuda_device_of(ggml_backend_buffer_t buffer) {
    if (buffer == nullptr || !cuda::is_built()) {
        return -1;
    }
    ggml_backend_buffer_type_t type = ggml_backend_buffer_get_type(buffer);
    ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
    if (device == nullptr || ggml_backend_buft_is_host(type)) {
        return -1;
    }
    const std::string name = ggml_backend_dev_name(device);
    return name.compare(0, 4, "CUDA") == 0 ? std::atoi(name.c_str() + 4) : -1;
}

template <typename T>
const T * element(const void * data, size_t offset) {
    return reinterpret_cast<const T *>(static_cast<const char *>(data) + offset);
}

}  // namespace

bool Collector::callback(ggml_tensor * tensor, bool ask, void * user_data) {
    auto * collector = static_cast<Collector *>(user_data);
    if (ask) {
        return collector->wants(tensor);
    }
    if (collector->error_ != nullptr || tensor->name == collector->last_before_output_) {
        return false;
    }
    try {
        collector->collect(tensor);
    } catch (...) {  // must not pass through the scheduler, whose state would be lost
        collector->error_ = std::current_exception();
        return false;
    }
    return collector->last_name_ != collector->options_.last;
}

void Collector::rethrow() {
    if (error_ != nullptr) {
        std::rethrow_exception(std::exchange(error_, nullptr));
    }
}

// Called for all nodes in order. Nobody reads the logits. Of the first graph this learns which node
// comes before the product with the output matrix, to stop there in all later ones.
bool Collector::wants(const ggml_tensor * tensor) {
    if (tensor->op != GGML_OP_MUL_MAT && tensor->op != GGML_OP_MUL_MAT_ID) {
        previous_ = tensor->name;
        return !last_before_output_.empty() && previous_ == last_before_output_;
    }
    const std::string name = weight_name(tensor->src[0]);
    // A name that ggml made up could be that of another node in another graph.
    if (!options_.output && last_before_output_.empty() && is_output(name) &&
        previous_.compare(0, 5, "node_") != 0) {
        last_before_output_ = previous_;
    }
    previous_ = tensor->name;
    const int layer = layer_of(name);
    if (layer >= 0 && layer < options_.first_layer) {
        return false;
    }
    if (tensor->op == GGML_OP_MUL_MAT_ID) {
        return layer >= 0 || options_.first_layer == 0;
    }
    const ggml_tensor * input = tensor->src[1];
    return input->ne[1] >= FEWEST_ROWS && input->type == GGML_TYPE_F32 &&
           (layer >= 0 || (options_.output && name == "output.weight"));
}

void Collector::collect(const ggml_tensor * tensor) {
    const ggml_tensor * weights = tensor->src[0];
    const Input same{tensor->src[1], tensor->src[2], {weights->ne[2], weights->ne[3]}};
    const bool is_repeated = same == last_input_;
    last_input_ = same;
    const std::string other = std::exchange(last_name_, weight_name(weights));
    ++collected_;
    std::vector<statistics::ActivationSink *> waiting;  // for rows in host memory
    for (const auto & sink : sinks_) {
        if (!(is_repeated && sink->add_same(last_name_, other)) &&
            !collect_on_device(tensor, *sink)) {
            waiting.push_back(sink.get());
        }
    }
    if (waiting.empty()) {
        return;
    }
    const char * data = host_data(tensor->src[1]);
    const statistics::Activations rows =
        tensor->op == GGML_OP_MUL_MAT_ID ? routed(tensor, data) : dense(tensor, data);
    for (statistics::ActivationSink * sink : waiting) {
        sink->add(last_name_, rows);
    }
}

const char * Collector::host_data(const ggml_tensor * input) {
    if (input->type != GGML_TYPE_F32 || input->nb[0] != sizeof(float)) {
        throw std::runtime_error(last_name_ + " has inputs that are not rows of F32");
    }
    if (ggml_backend_buffer_is_host(input->buffer)) {
        return static_cast<const char *>(input->data);
    }
    activations_.resize(ggml_nbytes(input));
    ggml_backend_tensor_get(input, activations_.data(), 0, activations_.size());
    return activations_.data();
}

// Where the activations lie on a GPU that our kernels run on, they are taken there.
bool Collector::collect_on_device(const ggml_tensor * tensor, statistics::ActivationSink & sink) {
    const ggml_tensor * weights = tensor->src[0];
    const ggml_tensor * input = tensor->src[1];
    const ggml_tensor * ids = tensor->op == GGML_OP_MUL_MAT_ID ? tensor->src[2] : nullptr;
    const int device = cuda_device_of(input->buffer);
    if (device < 0 || input->type != GGML_TYPE_F32 || input->nb[0] != sizeof(float) ||
        (ids != nullptr && (cuda_device_of(ids->buffer) != device || ids->ne[1] != input->ne[2] ||
                            input->ne[3] != 1))) {
        return false;
    }
    cuda::DeviceActivations rows{};
    rows.data = input->data;
    rows.columns = input->ne[0];
    for (int i = 0; i < 3; ++i) {
        rows.extents[i] = input->ne[i + 1];
        rows.strides[i] = static_cast<int64_t>(input->nb[i + 1]);
    }
    rows.matrices[0] = weights->ne[2];
    rows.matrices[1] = ids != nullptr ? 1 : weights->ne[3];
    if (ids != nullptr) {
        rows.ids = ids->data;
        rows.used = ids->ne[0];
        rows.tokens = ids->ne[1];
        rows.id_strides[0] = static_cast<int64_t>(ids->nb[0]);
        rows.id_strides[1] = static_cast<int64_t>(ids->nb[1]);
    }
    return sink.add_on_device(weight_name(weights), device, rows);
}

// input: (columns, experts used or 1, tokens); ids: (experts used, tokens).
statistics::Activations Collector::routed(const ggml_tensor * tensor, const char * data) {
    const ggml_tensor * weights = tensor->src[0];
    const ggml_tensor * input = tensor->src[1];
    const ggml_tensor * ids = tensor->src[2];
    ids_.resize(ggml_nbytes(ids));
    ggml_backend_tensor_get(ids, ids_.data(), 0, ids_.size());
    statistics::Activations rows{input->ne[0], true, {}};
    rows.of_matrix.resize(static_cast<size_t>(weights->ne[2]));
    if (ids->ne[1] != input->ne[2] || input->ne[3] != 1) {
        throw std::runtime_error(weight_name(weights) + " has inputs of an unknown form");
    }
    for (int64_t used = 0; used < ids->ne[0]; ++used) {
        for (int64_t token = 0; token < ids->ne[1]; ++token) {
            const auto offset =
                static_cast<size_t>(token) * ids->nb[1] + static_cast<size_t>(used) * ids->nb[0];
            const int32_t expert = *element<int32_t>(ids_.data(), offset);
            if (expert < 0 || expert >= weights->ne[2]) {
                throw std::runtime_error(weight_name(weights) + " has no expert " +
                                         std::to_string(expert));
            }
            const auto row = static_cast<size_t>(used % input->ne[1]);
            rows.of_matrix[static_cast<size_t>(expert)].push_back(element<float>(
                data, row * input->nb[1] + static_cast<size_t>(token) * input->nb[2]));
        }
    }
    return rows;
}

// More activations than matrices are taken as more rows.
statistics::Activations Collector::dense(const ggml_tensor * tensor, const char * data) {
    const ggml_tensor * weights = tensor->src[0];
    const ggml_tensor * input = tensor->src[1];
    statistics::Activations rows{input->ne[0], false, {}};
    rows.of_matrix.resize(static_cast<size_t>(weights->ne[2] * weights->ne[3]));
    for (int64_t k = 0; k < input->ne[3]; ++k) {
        for (int64_t j = 0; j < input->ne[2]; ++j) {
            const int64_t matrix = (k % weights->ne[3]) * weights->ne[2] + j % weights->ne[2];
            auto & list = rows.of_matrix[static_cast<size_t>(matrix)];
            for (int64_t i = 0; i < input->ne[1]; ++i) {
                list.push_back(element<float>(data, static_cast<size_t>(i) * input->nb[1] +
                                                        static_cast<size_t>(j) * input->nb[2] +
                                                        static_cast<size_t>(k) * input->nb[3]));
            }
        }
    }
    return rows;
}

}  // namespace apex::llama
