#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "arguments.h"
#include "evaluate/draw.h"
#include "evaluate/likelihood.h"
#include "llama/context.h"
#include "llama/devices.h"
#include "llama/model.h"
#include "logits.h"
#include "register.h"
#include "statistics/activation_sink.h"
#include "variants/variants.h"

namespace apex::bind {

namespace {

using llama::Batch;
using llama::Context;
using llama::ContextOptions;
using llama::Model;

using Tokens = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Flags = py::array_t<bool, py::array::c_style | py::array::forcecast>;
using Codes = py::array_t<uint16_t, py::array::c_style>;
using GpuDevice = py::typing::Tuple<py::str, py::str, py::int_, py::int_>;

// Lets Python's signal handlers run while a model does; true once one of them has raised.
std::function<bool()> ask_python() {
    using Clock = std::chrono::steady_clock;
    return [next = Clock::now(), stopped = false]() mutable {
        const auto now = Clock::now();
        if (!stopped && now >= next) {
            next = now + std::chrono::milliseconds(100);
            py::gil_scoped_acquire acquire;
            stopped = PyErr_CheckSignals() != 0;
        }
        return stopped;
    };
}

ContextOptions to_options(uint32_t context_length, uint32_t batch_size, uint32_t micro_batch_size,
                          uint32_t sequences, int threads, const std::string & cache_type_k,
                          const std::string & cache_type_v, bool unified_cache, bool mtp) {
    if (context_length < 1 || batch_size < 1 || micro_batch_size < 1 || sequences < 1) {
        throw py::value_error("lengths and numbers of sequences must be at least 1");
    }
    ContextOptions options;
    options.context_length = context_length;
    options.batch_size = batch_size;
    options.micro_batch_size = micro_batch_size;
    options.sequences = sequences;
    options.threads = to_threads(threads);
    options.yields = threads <= 0;
    options.cache_type_k = to_type(cache_type_k);
    options.cache_type_v = to_type(cache_type_v);
    options.unified_cache = unified_cache;
    options.mtp = mtp;
    options.interrupted = ask_python();
    return options;
}

std::shared_ptr<Context> make_context(
    std::shared_ptr<Model> model, uint32_t context_length, uint32_t batch_size,
    uint32_t micro_batch_size, uint32_t sequences, int threads, const std::string & cache_type_k,
    const std::string & cache_type_v, bool unified_cache, bool mtp,
    const std::vector<std::shared_ptr<statistics::ActivationSink>> & collect, bool collect_output,
    const std::string & collect_until) {
    const ContextOptions options =
        to_options(context_length, batch_size, micro_batch_size, sequences, threads, cache_type_k,
                   cache_type_v, unified_cache, mtp);
    std::unique_ptr<llama::Collector> collector;
    if (!collect.empty()) {
        llama::CollectorOptions what;
        what.output = collect_output;
        what.first_layer = mtp ? llama_model_n_layer(model->get()) : 0;
        what.last = collect_until;
        collector = std::make_unique<llama::Collector>(collect, what);
    }
    py::gil_scoped_release release;
    return std::make_shared<Context>(std::move(model), options, std::move(collector));
}

Batch to_batch(const Tokens & tokens, const Tokens & positions, const Tokens & sequences,
               const Flags & outputs, const std::optional<Tokens> & shared) {
    const py::ssize_t size = tokens.size();
    if (positions.size() != size || sequences.size() != size || outputs.size() != size ||
        (shared && shared->size() != size)) {
        throw py::value_error("tokens, positions, sequences and outputs must be equally many");
    }
    Batch batch;
    for (py::ssize_t i = 0; i < size; ++i) {
        batch.tokens.push_back({tokens.at(i), positions.at(i), sequences.at(i),
                                shared ? shared->at(i) : 1, outputs.at(i)});
    }
    return batch;
}

std::vector<evaluate::Target> to_targets(const Indices & rows, const Tokens & tokens,
                                         const evaluate::Logits & logits) {
    if (rows.size() != tokens.size()) {
        throw py::value_error("there must be one token for each row");
    }
    std::vector<evaluate::Target> targets;
    for (const int64_t row : to_rows(rows, logits)) {
        const int32_t token = tokens.at(static_cast<py::ssize_t>(targets.size()));
        if (token < 0 || token >= logits.vocabulary) {
            throw py::value_error("token " + std::to_string(token) + " is not in the vocabulary");
        }
        targets.push_back({row, token});
    }
    return targets;
}

// One number per target, computed without the GIL.
template <typename T, typename Function>
py::array_t<T> scored(const Context & context, const Indices & rows, const Tokens & tokens,
                      int threads, Function function) {
    const evaluate::Logits logits = logits_of(context);
    const auto targets = to_targets(rows, tokens, logits);
    py::array_t<T> result(static_cast<py::ssize_t>(targets.size()));
    T * data = result.mutable_data();
    py::gil_scoped_release release;
    function(logits, targets, to_threads(threads), data);
    return result;
}

using Scores = py::typing::Tuple<py::array_t<double>, py::array_t<int32_t>>;

// -ln p(token) and the most likely token of each position.
Scores to_scores(const std::vector<evaluate::Score> & values) {
    const auto size = static_cast<py::ssize_t>(values.size());
    py::array_t<double> nll(size);
    py::array_t<int32_t> top(size);
    for (py::ssize_t i = 0; i < size; ++i) {
        nll.mutable_at(i) = values[static_cast<size_t>(i)].negative_log_likelihood;
        top.mutable_at(i) = values[static_cast<size_t>(i)].most_likely;
    }
    return py::make_tuple(nll, top);
}

using Columns = py::typing::Dict<py::str, py::array>;
using Compared = py::typing::Tuple<Scores, Columns>;

// The scores of a model, and its columns of statistics against the base.
Compared to_compared(const evaluate::Divergence * values, size_t count) {
    const auto size = static_cast<py::ssize_t>(count);
    py::array_t<double> score(size), kl(size);
    py::array_t<float> nll(size), base_nll(size), difference(size);
    py::array_t<bool> same_top(size);
    py::array_t<int32_t> top(size);
    for (py::ssize_t i = 0; i < size; ++i) {
        const evaluate::Divergence & value = values[i];
        score.mutable_at(i) = value.score.negative_log_likelihood;
        top.mutable_at(i) = value.score.most_likely;
        kl.mutable_at(i) = value.kl;
        nll.mutable_at(i) = value.negative_log_likelihood;
        base_nll.mutable_at(i) = value.base_negative_log_likelihood;
        difference.mutable_at(i) = value.probability_difference;
        same_top.mutable_at(i) = value.same_top != 0;
    }
    Columns columns;
    columns["kl"] = kl;
    columns["negative_log_likelihood"] = nll;
    columns["base_negative_log_likelihood"] = base_nll;
    columns["probability_difference"] = difference;
    columns["same_top"] = same_top;
    return py::make_tuple(py::make_tuple(score, top), columns);
}

Scores score(const Context & context, const Indices & rows, const Tokens & tokens, int threads) {
    const evaluate::Logits logits = logits_of(context);
    const auto targets = to_targets(rows, tokens, logits);
    std::vector<evaluate::Score> values(targets.size());
    {
        py::gil_scoped_release release;
        evaluate::score(logits, targets, to_threads(threads), values.data());
    }
    return to_scores(values);
}

Compared diverge(const Context & context, const Indices & rows, const Tokens & tokens,
                 const Codes & codes, int threads) {
    const evaluate::Logits logits = logits_of(context);
    const auto targets = to_targets(rows, tokens, logits);
    if (codes.ndim() != 2 || codes.shape(0) != rows.size() ||
        codes.shape(1) != evaluate::code_size(logits.vocabulary)) {
        throw py::value_error("there must be one row of codes for each row of logits");
    }
    std::vector<evaluate::Divergence> values(targets.size());
    {
        py::gil_scoped_release release;
        evaluate::diverge(logits, targets, codes.data(), to_threads(threads), values.data());
    }
    return to_compared(values.data(), values.size());
}

py::typing::Tuple<Scores, py::typing::List<Compared>, py::typing::Optional<Codes>> compare(
    const Context & base, const Indices & rows, const Tokens & tokens,
    const std::vector<std::shared_ptr<Context>> & models, bool encode, int threads) {
    const evaluate::Logits logits = logits_of(base);
    const auto targets = to_targets(rows, tokens, logits);
    std::vector<evaluate::Logits> others;
    for (const std::shared_ptr<Context> & model : models) {
        others.push_back(logits_of(*model));
        if (others.back().rows != logits.rows || others.back().vocabulary != logits.vocabulary) {
            throw py::value_error("all models must have equally many rows and tokens");
        }
    }
    const auto size = static_cast<py::ssize_t>(targets.size());
    const auto width = static_cast<py::ssize_t>(evaluate::code_size(logits.vocabulary));
    Codes codes({encode ? size : 0, width});
    uint16_t * code_data = encode ? codes.mutable_data() : nullptr;
    std::vector<evaluate::Score> scores(targets.size());
    std::vector<evaluate::Divergence> values(targets.size() * others.size());
    {
        py::gil_scoped_release release;
        evaluate::compare(logits, others, targets, to_threads(threads), code_data, scores.data(),
                          values.data());
    }
    py::typing::List<Compared> compared;
    for (size_t k = 0; k < others.size(); ++k) {
        compared.append(to_compared(values.data() + k * targets.size(), targets.size()));
    }
    return py::make_tuple(to_scores(scores), compared, encode ? py::object(codes) : py::none());
}

py::array_t<float> copy_logits(const Context & context) {
    const evaluate::Logits logits = logits_of(context);
    return py::array_t<float>({logits.rows, logits.vocabulary}, logits.data);
}

void register_model(py::module_ & module) {
    py::class_<Model, std::shared_ptr<Model>>(module, "Model", "A model that libllama loaded.")
        .def(py::init([](const std::string & path, bool mtp, bool vocabulary_only,
                         int32_t gpu_layers, bool replaceable) {
                 py::gil_scoped_release release;
                 llama::ModelOptions options;
                 options.mtp = mtp;
                 options.vocabulary_only = vocabulary_only;
                 options.gpu_layers = gpu_layers;
                 options.replaceable = replaceable;
                 return std::make_shared<Model>(path, options);
             }),
             py::arg("path"), py::kw_only(), py::arg("mtp") = false,
             py::arg("vocabulary_only") = false, py::arg("gpu_layers") = 0,
             py::arg("replaceable") = false,
             "Mapped, on the CPU but for gpu_layers, of which a negative number means all; "
             "replaceable: in memory, so that Weights can change it. Raises ModelError.")
        .def_property_readonly("vocabulary_size", &Model::vocabulary_size)
        .def_property_readonly(
            "adds_bos", [](const Model & m) { return llama_vocab_get_add_bos(m.vocabulary()); },
            "Whether texts begin with the beginning-of-sequence token.")
        .def_property_readonly("bos",
                               [](const Model & m) { return llama_vocab_bos(m.vocabulary()); })
        .def_property_readonly(
            "context_length", [](const Model & m) { return llama_model_n_ctx_train(m.get()); },
            "The context that the model was trained with.")
        .def_property_readonly(
            "layers", [](const Model & m) { return llama_model_n_layer(m.get()); },
            "Layers of the trunk.")
        .def_property_readonly("mtp_layers",
                               [](const Model & m) { return llama_model_n_layer_nextn(m.get()); })
        .def(
            "tokenize",
            [](const Model & model, const py::bytes & text, bool add_special, bool parse_special) {
                const std::string bytes = text;
                std::vector<llama_token> tokens;
                {
                    py::gil_scoped_release release;
                    tokens = model.tokenize(bytes, add_special, parse_special);
                }
                return py::array_t<int32_t>(static_cast<py::ssize_t>(tokens.size()), tokens.data());
            },
            py::arg("text"), py::kw_only(), py::arg("add_special") = true,
            py::arg("parse_special") = false,
            "int32 tokens of UTF-8 text. add_special: with the token that begins a text, where the "
            "model wants "
            "one; parse_special: names of special tokens in the text become those tokens.")
        .def(
            "piece",
            [](const Model & model, llama_token token) { return py::bytes(model.piece(token)); },
            py::arg("token"), "The bytes that a token stands for.")
        .def("render_chat", &Model::render_chat, py::arg("messages"),
             "(role, content) messages as the model's own template writes them; None where "
             "libllama does not know its template.")
        .def("first_difference", &Model::first_difference, py::arg("other"),
             "The first token that differs between the two vocabularies, or -1.");
}

void register_context(py::module_ & module) {
    py::class_<Context, std::shared_ptr<Context>>(
        module, "Context", "What libllama needs to run a model: caches, buffers, threads.")
        .def(py::init(&make_context), py::arg("model"), py::kw_only(),
             py::arg("context_length") = 512, py::arg("batch_size") = 2048,
             py::arg("micro_batch_size") = 512, py::arg("sequences") = 1, py::arg("threads") = 0,
             py::arg("cache_type_k") = "F16", py::arg("cache_type_v") = "F16",
             py::arg("unified_cache") = false, py::arg("mtp") = false,
             py::arg("collect") = py::tuple(), py::arg("collect_output") = false,
             py::arg("collect_until") = "",
             "context_length counts the tokens of all sequences. With `collect`, activations are "
             "added to every sink in it and logits are not computed; what follows the product with "
             "the tensor `collect_until` is then left out. Raises ModelError.")
        .def("clear", &Context::clear, "Forget all sequences.")
        .def("keep_hidden_states", &Context::keep_hidden_states,
             "Keep what decode_mtp of another context needs.")
        .def(
            "decode",
            [](Context & context, const Tokens & tokens, const Tokens & positions,
               const Tokens & sequences, const Flags & outputs,
               const std::optional<Tokens> & shared) {
                const Batch batch = to_batch(tokens, positions, sequences, outputs, shared);
                py::gil_scoped_release release;
                context.decode(batch);
            },
            py::arg("tokens"), py::arg("positions"), py::arg("sequences"), py::arg("outputs"),
            py::arg("shared") = py::none(),
            "Run a batch. Token i belongs to shared[i] sequences from sequences[i] on; outputs[i] "
            "asks for its logits. Raises ModelError, NonFiniteError.")
        .def(
            "decode_mtp",
            [](Context & context, const Tokens & tokens, const Tokens & positions,
               const Tokens & sequences, const Flags & outputs, Context & trunk) {
                const Batch batch = to_batch(tokens, positions, sequences, outputs, std::nullopt);
                py::gil_scoped_release release;
                return context.decode_mtp(batch, trunk);
            },
            py::arg("tokens"), py::arg("positions"), py::arg("sequences"), py::arg("outputs"),
            py::arg("trunk"),
            "Run the multi-token-prediction heads over the batch that the trunk has just run. "
            "Returns how many matrix products were collected.")
        .def("logits", &copy_logits,
             "float32 (rows, vocabulary): a copy of the logits that the last batch asked for.")
        .def("score", &score, py::arg("rows"), py::arg("tokens"), py::arg("threads") = 0,
             "Of each row of the last logits, float64 -ln p(token) and the int32 most likely "
             "token.")
        .def(
            "log_probabilities",
            [](const Context & context, const Indices & rows, const Tokens & tokens, int threads) {
                return scored<float>(context, rows, tokens, threads, evaluate::log_probabilities);
            },
            py::arg("rows"), py::arg("tokens"), py::arg("threads") = 0,
            "float32: ln p(token), summed in float as llama-perplexity's tasks do.")
        .def(
            "probabilities",
            [](const Context & context, const Indices & rows, const Tokens & tokens, int threads) {
                return scored<float>(context, rows, tokens, threads, evaluate::probabilities);
            },
            py::arg("rows"), py::arg("tokens"), py::arg("threads") = 0, "float32: p(token).")
        .def("diverge", &diverge, py::arg("rows"), py::arg("tokens"), py::arg("codes"),
             py::arg("threads") = 0,
             "Against uint16 rows of a base file, one for each row of logits: what score gives, "
             "and the statistics of each position, a dict of float64 kl, float32 "
             "negative_log_likelihood, base_negative_log_likelihood and probability_difference, "
             "bool same_top.")
        .def("compare", &compare, py::arg("rows"), py::arg("tokens"), py::arg("models"),
             py::kw_only(), py::arg("encode") = false, py::arg("threads") = 0,
             "Compares contexts that have decoded the same batch with this one: what score gives "
             "for this one, what diverge gives for each of them, and, to encode, the uint16 rows "
             "of a llama-perplexity base file, else None. With them, -ln p(token) of this one is "
             "what llama-perplexity prints while it writes such a file.");
    module.def(
        "memory_need",
        [](const std::string & path, uint32_t context_length, uint32_t batch_size,
           uint32_t micro_batch_size, uint32_t sequences, const std::string & cache_type_k,
           const std::string & cache_type_v, bool unified_cache, bool mtp, bool load_mtp,
           int32_t gpu_layers) {
            const ContextOptions options =
                to_options(context_length, batch_size, micro_batch_size, sequences, 1, cache_type_k,
                           cache_type_v, unified_cache, mtp);
            llama::ModelOptions model_options;
            model_options.mtp = mtp || load_mtp;
            model_options.gpu_layers = gpu_layers;
            llama::MemoryNeed need;
            {
                py::gil_scoped_release release;
                need = Context::memory_need(path, model_options, options);
            }
            return std::map<std::string, uint64_t>{{"model", need.model},
                                                   {"cache", need.cache},
                                                   {"compute", need.compute},
                                                   {"logits", need.logits},
                                                   {"device_model", need.device_model},
                                                   {"device", need.device}};
        },
        py::arg("path"), py::kw_only(), py::arg("context_length") = 512,
        py::arg("batch_size") = 2048, py::arg("micro_batch_size") = 512, py::arg("sequences") = 1,
        py::arg("cache_type_k") = "F16", py::arg("cache_type_v") = "F16",
        py::arg("unified_cache") = false, py::arg("mtp") = false, py::arg("load_mtp") = false,
        py::arg("gpu_layers") = 0,
        "Bytes that a model and a context would take, without making them: of the host's memory "
        "model, cache, compute and logits; on GPUs device_model and device, the caches and "
        "buffers. mtp: the context runs the multi-token-prediction layers; load_mtp: they are "
        "loaded. Raises ModelError.");
}

}  // namespace

void register_inference(py::module_ & module) {
    register_model(module);
    register_context(module);
    module.def("max_sequences", &llama_max_parallel_sequences,
               "The most sequences that a context can have.");
    module.def("inference_features", &llama_print_system_info,
               "The instruction sets that libllama's CPU backend uses; low digits depend on them.");
    module.def("available_variants", &variants::available,
               "The variants of llama.cpp's CPU backend that this CPU runs, from narrow to wide; "
               "native in a build for this machine.");
    module.def("active_variant", &variants::active,
               "The one that runs models. Raises ValueError if APEX_CPU_VARIANT names one that is "
               "not available.");
    module.def("gpu_backends", &llama::gpu_backends,
               "The GPU backends of this build; empty where it runs models on the CPU alone.");
    module.def(
        "gpu_devices",
        [] {
            std::vector<llama::Device> devices;
            {
                py::gil_scoped_release release;
                devices = llama::gpu_devices();
            }
            std::vector<GpuDevice> result;
            for (const llama::Device & device : devices) {
                result.push_back(
                    py::make_tuple(device.name, device.description, device.free, device.total));
            }
            return result;
        },
        "(name, description, free and total bytes) of each GPU that models can be run on. Raises "
        "ModelError.");
    module.def("base_file_row", &evaluate::code_size, py::arg("vocabulary"),
               "uint16 values in a row of a llama-perplexity base file.");
    module.def("draw_hellaswag", &evaluate::draw_hellaswag, py::arg("available"), py::arg("wanted"),
               "The tasks that llama-perplexity draws, in its order.");
    module.def("draw_tasks", &evaluate::draw_tasks, py::arg("available"), py::arg("wanted"),
               "The same for Winogrande and multiple choice; 0 wants all.");
}

}  // namespace apex::bind
