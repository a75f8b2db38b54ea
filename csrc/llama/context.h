// What libllama needs to run a model: caches, buffers, threads.
#pragma once

#include <ggml-cpu.h>
#include <llama-cpp.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "collector.h"
#include "model.h"

namespace apex::llama {

// The caller's `interrupted` returned true.
class Interrupted : public std::exception {
  public:
    const char * what() const noexcept override { return "interrupted"; }
};

struct ContextOptions {
    uint32_t context_length = 512;  // of all sequences together
    uint32_t batch_size = 2048;
    uint32_t micro_batch_size = 512;
    uint32_t sequences = 1;
    int threads = 1;
    bool yields = false;  // fewer threads while other processes use the processors
    ggml_type cache_type_k = GGML_TYPE_F16;
    ggml_type cache_type_v = GGML_TYPE_F16;
    bool unified_cache = false;         // one buffer for all sequences, which may then share tokens
    bool mtp = false;                   // runs the multi-token-prediction head instead of the trunk
    std::function<bool()> interrupted;  // asked now and then while the model runs
};

// Tokens to run. A token belongs to `shared` sequences that follow one another.
struct Batch {
    struct Token {
        llama_token id;
        llama_pos position;
        llama_seq_id sequence;
        int32_t shared;
        bool output;  // whether logits are wanted
    };
    std::vector<Token> tokens;
};

// In bytes; of the host, but for what lies on devices.
struct MemoryNeed {
    uint64_t model = 0, cache = 0, compute = 0, logits = 0;
    uint64_t device_model = 0;  // weights
    uint64_t device = 0;        // caches and buffers
};

// ggml's threads, shared by all contexts that want as many. Contexts take turns.
struct Threads {
    explicit Threads(int count);
    ~Threads();
    static std::shared_ptr<Threads> shared(int count);

    const int count;
    ggml_threadpool * pool;
    std::mutex turn;
};

class Context {
  public:
    // Throws ModelError. `collect` may be null.
    Context(std::shared_ptr<Model> model, const ContextOptions & options,
            std::unique_ptr<Collector> collect);
    ~Context();
    Context(const Context &) = delete;
    Context & operator=(const Context &) = delete;

    const std::shared_ptr<Model> & model() const { return model_; }

    // Forgets all sequences.
    void clear();

    // Runs the batch. Throws ModelError, Interrupted, and what the collector throws.
    void decode(const Batch & batch);

    // Runs the MTP heads over the batch that the trunk has just run: every token with the trunk's
    // hidden state of the token before it, zeros before the first. Returns how many matrix
    // products were collected; 0 means that libllama cannot run these heads.
    int64_t decode_mtp(const Batch & batch, Context & trunk);

    // Makes the trunk keep its hidden states for decode_mtp.
    void keep_hidden_states();

    // The rows that the last batch asked for, in its order; valid until the next. Null where
    // activations are collected: the graph may have been stopped before them.
    const float * logits() const { return logits_; }
    int64_t rows() const { return rows_; }

    // What a model and a context with these options would take, without making them.
    static MemoryNeed memory_need(const std::string & path, ModelOptions model_options,
                                  const ContextOptions & options);

  private:
    static llama_context_params to_params(const ContextOptions & options);
    void process(const Batch & batch, const std::vector<const float *> * hidden);
    void choose_threads();
    void use_threads(int count);
    static bool on_abort(void * context);

    std::shared_ptr<Model> model_;
    ContextOptions options_;
    std::unique_ptr<Collector> collector_;
    llama_context_ptr context_;
    llama_batch_ext_ptr batch_;
    std::shared_ptr<Threads> threads_;
    std::map<int, std::shared_ptr<Threads>> known_threads_;  // ggml remembers the one before
    int idle_ = 0;  // processors, when the last batch began
    const float * logits_ = nullptr;
    int64_t rows_ = 0;
    std::vector<std::vector<float>> last_hidden_;  // per sequence, for a text cut into batches
};

}  // namespace apex::llama
