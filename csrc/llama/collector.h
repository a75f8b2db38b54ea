// Watches libllama's graph and gives the activations that go into each matrix to sinks.
#pragma once

#include <ggml.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "statistics/activation_sink.h"

namespace apex::llama {

struct CollectorOptions {
    bool output = false;  // the output matrix too, as llama-imatrix --process-output
    int first_layer = 0;  // layers below are left out: those of the trunk, for an MTP head
    std::string last;     // the tensor after which the rest of the graph is left out, if any
};

class Collector {
  public:
    using Sinks = std::vector<std::shared_ptr<statistics::ActivationSink>>;

    Collector(Sinks sinks, const CollectorOptions & options)
        : sinks_(std::move(sinks)), options_(options) {}

    // A ggml_backend_sched_eval_callback, with the collector as its user data.
    static bool callback(ggml_tensor * tensor, bool ask, void * collector);

    // Throws what went wrong inside of a callback since the last call.
    void rethrow();

    // How many matrix products were collected since the last call.
    int64_t take_collected() { return std::exchange(collected_, 0); }

  private:
    bool wants(const ggml_tensor * tensor);
    void collect(const ggml_tensor * tensor);
    static bool collect_on_device(const ggml_tensor * tensor, statistics::ActivationSink & sink);
    const char * host_data(const ggml_tensor * input);
    statistics::Activations routed(const ggml_tensor * tensor, const char * data);
    static statistics::Activations dense(const ggml_tensor * tensor, const char * data);

    // What decides which rows a product adds to which matrix; the tensors are compared, not read.
    struct Input {
        const ggml_tensor * activations = nullptr;
        const ggml_tensor * ids = nullptr;
        int64_t matrices[2] = {};
        bool operator==(const Input & other) const {
            return activations == other.activations && ids == other.ids &&
                   matrices[0] == other.matrices[0] && matrices[1] == other.matrices[1];
        }
    };

    Sinks sinks_;
    CollectorOptions options_;
    std::exception_ptr error_;
    int64_t collected_ = 0;
    std::string previous_, last_before_output_;
    Input last_input_;
    std::string last_name_;
    std::vector<char> activations_, ids_;  // copies of what lies on a device
};

}  // namespace apex::llama
