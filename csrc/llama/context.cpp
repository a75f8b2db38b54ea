#include "context.h"

#include <llama-ext.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <thread>
#include <utility>

#ifdef __linux__
#include <unistd.h>
#endif

#include "devices.h"
#include "guarded.h"

namespace apex::llama {

namespace {

constexpr const char * CANNOT_RUN = "libllama cannot run the model";
constexpr int ABORTED = 2;  // of llama_process

// How many processors nobody else uses at this moment; our own threads sleep between two batches.
int idle_processors_now() {
#ifdef __linux__
    std::ifstream loads("/proc/loadavg");
    std::string minutes;
    int running = 0;  // tasks that run or wait for a processor, this one among them
    if (loads >> minutes >> minutes >> minutes >> running && running > 0) {
        return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)) - (running - 1);
    }
#endif
    return std::numeric_limits<int>::max();  // not known
}

// The most of a few moments: what runs for an instant only, such as the kernel's own tasks, does
// not take a thread from a whole batch.
int idle_processors(int wanted) {
    constexpr int MOMENTS = 4;
    int idle = idle_processors_now();
    for (int i = 1; i < MOMENTS && idle < wanted; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        idle = std::max(idle, idle_processors_now());
    }
    return idle;
}

}  // namespace

// Without a pool, ggml would start threads anew for every part of a graph.
Threads::Threads(int threads) : count(threads) {
    ggml_threadpool_params params = ggml_threadpool_params_default(count);
    pool = ggml_threadpool_new(&params);
    if (pool == nullptr) {
        throw ModelError("libllama cannot start " + std::to_string(count) + " threads");
    }
}

Threads::~Threads() {
    ggml_threadpool_free(pool);
}

std::shared_ptr<Threads> Threads::shared(int count) {
    static std::mutex mutex;
    static std::map<int, std::weak_ptr<Threads>> known;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Threads> threads = known[count].lock();
    if (threads == nullptr) {
        threads = std::make_shared<Threads>(count);
        known[count] = threads;
    }
    return threads;
}

llama_context_params Context::to_params(const ContextOptions & options) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = options.context_length;
    params.n_batch = options.batch_size;
    params.n_ubatch = options.micro_batch_size;
    params.n_seq_max = options.sequences;
    params.n_threads = options.threads;
    params.n_threads_batch = options.threads;
    params.type_k = options.cache_type_k;
    params.type_v = options.cache_type_v;
    params.kv_unified = options.unified_cache;
    params.no_perf = true;
    // As llama.cpp's tools set them, so that the low digits are theirs too.
    params.swa_full = false;
    params.n_outputs_max_per_seq = 0;
    if (options.mtp) {
        params.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
    }
    return params;
}

Context::Context(std::shared_ptr<Model> model, const ContextOptions & options,
                 std::unique_ptr<Collector> collect)
    : model_(std::move(model)), options_(options), collector_(std::move(collect)) {
    guarded("libllama cannot make a context", [&](guard::Scope & scope) {
        llama_context_params params = to_params(options_);
        if (collector_ != nullptr) {
            params.cb_eval = Collector::callback;
            params.cb_eval_user_data = collector_.get();
        }
        if (options_.interrupted) {
            params.abort_callback = on_abort;
            params.abort_callback_data = this;
        }
        context_.reset(llama_init_from_model(model_->get(), params));
        if (context_ == nullptr) {
            throw failure(scope, "libllama cannot make a context");
        }
        use_threads(options_.threads);
        batch_.reset(llama_batch_ext_init(context_.get()));
        if (options_.mtp) {
            llama_set_embeddings_nextn(context_.get(), true, true);
        }
    });
}

Context::~Context() {
    if (context_ != nullptr && threads_ != nullptr) {
        llama_detach_threadpool(context_.get());
    }
}

// ggml's threads wait for one another after every operation, and they spin. Where others use the
// processors too, all of them wait for the one that does not run just now, which takes longer than
// going without it.
void Context::choose_threads() {
    if (!options_.yields) {
        return;
    }
    const int idle = idle_processors(options_.threads);
    const int before = std::exchange(idle_, idle);
    use_threads(std::clamp(std::max(idle, before), 1, options_.threads));  // not for one moment
}

void Context::use_threads(int count) {
    if (threads_ != nullptr && threads_->count == count) {
        return;
    }
    std::shared_ptr<Threads> & threads = known_threads_[count];
    if (threads == nullptr) {
        threads = Threads::shared(count);
    }
    threads_ = threads;
    llama_set_n_threads(context_.get(), count, count);
    llama_attach_threadpool(context_.get(), threads_->pool, threads_->pool);
}

bool Context::on_abort(void * user_data) {
    return static_cast<Context *>(user_data)->options_.interrupted();
}

void Context::keep_hidden_states() {
    llama_set_embeddings_nextn(context_.get(), true, false);
}

void Context::clear() {
    llama_memory_clear(llama_get_memory(context_.get()), true);
    last_hidden_.clear();
}

void Context::decode(const Batch & batch) {
    process(batch, nullptr);
}

void Context::process(const Batch & batch, const std::vector<const float *> * hidden) {
    const int32_t vocabulary = model_->vocabulary_size();
    for (const Batch::Token & token : batch.tokens) {
        const auto sequences = static_cast<int32_t>(options_.sequences);
        if (token.id < 0 || token.id >= vocabulary) {
            throw std::invalid_argument("token " + std::to_string(token.id) +
                                        " is not in the vocabulary");
        }
        if (token.shared < 1 || token.sequence < 0 || token.sequence + token.shared > sequences) {
            throw std::invalid_argument("a token belongs to no sequence of the context");
        }
    }
    if (batch.tokens.empty() || batch.tokens.size() > options_.batch_size) {
        throw std::invalid_argument("a batch has at least one token and at most " +
                                    std::to_string(options_.batch_size));
    }
    guarded(CANNOT_RUN, [&](guard::Scope & scope) {
        logits_ = nullptr;
        rows_ = 0;
        llama_batch_ext_clear(batch_.get());
        const auto width = static_cast<size_t>(llama_model_n_embd(model_->get()));
        for (size_t i = 0; i < batch.tokens.size(); ++i) {
            const Batch::Token & token = batch.tokens[i];
            const int32_t at = llama_batch_ext_add_token(batch_.get(), token.sequence, token.id);
            for (int32_t k = 1; k < token.shared; ++k) {
                llama_batch_ext_add_seq(batch_.get(), at, token.sequence + k);
            }
            const llama_pos position[4] = {token.position, 0, 0, 0};
            llama_batch_ext_set_pos(batch_.get(), at, position);
            llama_batch_ext_set_output_logits(batch_.get(), at, token.output);
            if (hidden != nullptr) {
                llama_batch_ext_set_embd_token(batch_.get(), at, {(*hidden)[i], 1, width});
            }
            rows_ += token.output ? 1 : 0;
        }
        choose_threads();
        const std::lock_guard<std::mutex> turn(threads_->turn);
        const int32_t status =
            llama_process(context_.get(), LLAMA_PROCESS_TYPE_DECODE, batch_.get());
        if (collector_ != nullptr) {
            collector_->rethrow();
        }
        if (status == ABORTED) {
            throw Interrupted();
        }
        if (status != 0) {
            throw failure(scope, CANNOT_RUN);
        }
        llama_synchronize(context_.get());
        // Within a batch ggml's threads spin for the next operation. After it, whoever reads the
        // logits needs the processors, and so may other processes.
        ggml_threadpool_pause(threads_->pool);
        logits_ = collector_ == nullptr ? llama_get_logits(context_.get()) : nullptr;
    });
}

int64_t Context::decode_mtp(const Batch & batch, Context & trunk) {
    const auto width = static_cast<size_t>(llama_model_n_embd(model_->get()));
    const float * states = llama_get_embeddings_nextn(trunk.context_.get());
    if (states == nullptr) {
        throw ModelError("the trunk keeps no hidden states for the multi-token-prediction head");
    }
    last_hidden_.resize(options_.sequences, std::vector<float>(width));
    std::vector<const float *> hidden(batch.tokens.size());
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
        const llama_seq_id sequence = batch.tokens[i].sequence;
        const bool continues = i > 0 && batch.tokens[i - 1].sequence == sequence;
        hidden[i] = continues ? states + (i - 1) * width
                              : last_hidden_[static_cast<size_t>(sequence)].data();
    }
    const int heads = llama_model_n_layer_nextn(model_->get());
    for (int head = 0; head < heads; ++head) {
        if (heads > 1) {  // all heads see the same tokens, each at the same places of its own cache
            for (const Batch::Token & token : batch.tokens) {
                llama_memory_seq_rm(llama_get_memory(context_.get()), token.sequence,
                                    token.position, -1);
            }
            llama_set_nextn_layer_offset(context_.get(), head);
        }
        process(batch, &hidden);
    }
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
        const float * state = states + i * width;
        std::copy_n(state, width,
                    last_hidden_[static_cast<size_t>(batch.tokens[i].sequence)].begin());
    }
    return collector_ == nullptr ? 0 : collector_->take_collected();
}

MemoryNeed Context::memory_need(const std::string & path, ModelOptions model_options,
                                const ContextOptions & options) {
    model_options.no_weights = true;
    const Model model(path, model_options);
    return guarded("libllama cannot make a context", [&](guard::Scope & scope) {
        const llama_context_params params = to_params(options);
        const llama_context_ptr context(llama_init_from_model(model.get(), params));
        if (context == nullptr) {
            throw failure(scope, "libllama cannot make a context");
        }
        MemoryNeed need;
        for (const auto & [type, memory] : llama_get_memory_breakdown(context.get())) {
            if (is_on_gpu(type)) {
                need.device_model += memory.model;
                need.device += memory.context + memory.compute;
                continue;
            }
            need.model += memory.model;
            need.cache += memory.context;
            need.compute += memory.compute;
        }
        need.logits = uint64_t{options.batch_size} * sizeof(float) *
                      static_cast<uint64_t>(model.vocabulary_size());
        return need;
    });
}

}  // namespace apex::llama
