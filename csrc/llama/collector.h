// Watches libllama's graph and gives the activations that go into each matrix to a sink.
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
};

class Collector {
  public:
    Collector(std::shared_ptr<statistics::ActivationSink> sink, const CollectorOptions & options)
        : sink_(std::move(sink)), options_(options) {}

    // A ggml_backend_sched_eval_callback, with the collector as its user data.
    static bool callback(ggml_tensor * tensor, bool ask, void * collector);

    // Throws what went wrong inside of a callback since the last call.
    void rethrow();

    // How many matrix products were collected since the last call.
    int64_t take_collected() { return std::exchange(collected_, 0); }

  private:
    bool wants(const ggml_tensor * tensor);
    void collect(const ggml_tensor * tensor);
    bool collect_on_device(const ggml_tensor * tensor);
    void collect_routed(const ggml_tensor * tensor, const char * data);
    void collect_dense(const ggml_tensor * tensor, const char * data);

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

    std::shared_ptr<statistics::ActivationSink> sink_;
    CollectorOptions options_;
    std::exception_ptr error_;
    int64_t collected_ = 0;
    std::string previous_, last_before_output_;
    Input last_input_;
    std::string last_name_;
    std::vector<char> activations_, ids_;  // copies of what lies on a device
};

}  // namespace apex::llama
