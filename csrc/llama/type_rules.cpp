#include "type_rules.h"

// The rules are static functions of this file of upstream's. Including it, in place of upstream's
// own object (vendor/llama.cpp/CMakeLists.txt leaves it out), asks those very functions.
#include <llama-quant.cpp>

#include <algorithm>
#include <memory>
#include <numeric>

#include "guard/guard.h"

namespace apex::llama {

namespace {

FileType entry(const char * name, llama_ftype type) {
    return {name, type, llama_ftype_get_default_type(type)};
}

// ggml tensors without data that describe the model's.
class Tensors {
  public:
    explicit Tensors(size_t count)
        : context_(ggml_init({(count + 1) * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true})) {
        if (context_ == nullptr) {
            throw std::bad_alloc();
        }
    }

    ggml_tensor * add(const TensorQuery & query) {
        if (query.shape.empty() || query.shape.size() > GGML_MAX_DIMS) {
            throw std::invalid_argument("tensor '" + query.name + "' must have 1 to 4 dimensions");
        }
        ggml_tensor * tensor = ggml_new_tensor(
            context_.get(), query.type, static_cast<int>(query.shape.size()), query.shape.data());
        ggml_set_name(tensor, query.name.c_str());
        return tensor;
    }

  private:
    ggml_context_ptr context_;
};

// A loader that knows the model from metadata and tensor shapes alone, without its data.
class Loader {
  public:
    Loader(gguf_context * metadata, const std::string & path,
           const std::vector<KeyOverride> & overrides, const std::vector<ggml_tensor *> & tensors)
        : loader_(metadata, nullptr, nullptr, "", splits_, nullptr, LLAMA_LOAD_MODE_NONE, false,
                  true, true, terminated(overrides), nullptr) {
        // Some architectures look at which tensors there are. A weight can be made only from a file
        // that holds its data; so one is made from a tensor of one byte, and copied.
        gguf_context_ptr sample_header(gguf_init_empty());
        ggml_tensor sample{};
        sample.type = GGML_TYPE_I8;
        std::fill(std::begin(sample.ne), std::end(sample.ne), int64_t{1});
        std::fill(std::begin(sample.nb), std::end(sample.nb), size_t{1});
        ggml_set_name(&sample, "sample");
        gguf_add_tensor(sample_header.get(), &sample);
        const llama_file file(path.c_str(), "rb");
        llama_model_loader::llama_tensor_weight weight(&file, 0, sample_header.get(), &sample);
        for (ggml_tensor * tensor : tensors) {
            weight.tensor = tensor;
            loader_.weights_map.emplace(ggml_get_name(tensor), weight);
        }
        loader_.n_tensors = static_cast<int>(tensors.size());
    }

    std::unique_ptr<llama_model_base> model() {
        std::unique_ptr<llama_model> created(
            llama_model_create(loader_, llama_model_default_params()));
        auto * base = dynamic_cast<llama_model_base *>(created.get());
        if (base == nullptr) {
            throw ModelError("llama.cpp cannot quantize this architecture");
        }
        created.release();
        std::unique_ptr<llama_model_base> result(base);
        result->load_hparams(loader_);
        return result;
    }

  private:
    const KeyOverride * terminated(const std::vector<KeyOverride> & overrides) {
        overrides_ = overrides;
        overrides_.push_back(KeyOverride{});
        return overrides_.data();
    }

    std::vector<std::string> splits_;
    std::vector<KeyOverride> overrides_;
    llama_model_loader loader_;
};

llama_model_quantize_params to_params(const RuleOptions & options) {
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = options.file_type;
    params.output_tensor_type = options.output_tensor_type.value_or(GGML_TYPE_COUNT);
    params.token_embedding_type = options.token_embedding_type.value_or(GGML_TYPE_COUNT);
    params.pure = options.pure;
    params.quantize_output_tensor = options.quantize_output_tensor;
    params.only_copy = options.copy;
    return params;
}

// The type before the fallback. `before` is the state that the decision started from, as the
// mixtures count the tensors that they have seen.
ggml_type without_fallback(const quantize_state_impl & before, const RuleOptions & options,
                           const ggml_tensor * tensor, ggml_type default_type,
                           const tensor_metadata & metadata, std::optional<ggml_type> forced) {
    if (forced) {
        return *forced;
    }
    if (options.pure) {
        return default_type;
    }
    quantize_state_impl state = before;
    return llama_tensor_get_type_impl(state, default_type, tensor, options.file_type,
                                      metadata.category);
}

}  // namespace

const std::vector<FileType> & file_types() {
    static const std::vector<FileType> types = {
        entry("F32", LLAMA_FTYPE_ALL_F32),
        entry("F16", LLAMA_FTYPE_MOSTLY_F16),
        entry("BF16", LLAMA_FTYPE_MOSTLY_BF16),
        entry("Q8_0", LLAMA_FTYPE_MOSTLY_Q8_0),
        entry("Q6_K", LLAMA_FTYPE_MOSTLY_Q6_K),
        entry("Q5_K_M", LLAMA_FTYPE_MOSTLY_Q5_K_M),
        entry("Q5_K_S", LLAMA_FTYPE_MOSTLY_Q5_K_S),
        entry("Q5_1", LLAMA_FTYPE_MOSTLY_Q5_1),
        entry("Q5_0", LLAMA_FTYPE_MOSTLY_Q5_0),
        entry("Q4_K_M", LLAMA_FTYPE_MOSTLY_Q4_K_M),
        entry("Q4_K_S", LLAMA_FTYPE_MOSTLY_Q4_K_S),
        entry("IQ4_NL", LLAMA_FTYPE_MOSTLY_IQ4_NL),
        entry("IQ4_XS", LLAMA_FTYPE_MOSTLY_IQ4_XS),
        entry("Q4_1", LLAMA_FTYPE_MOSTLY_Q4_1),
        entry("Q4_0", LLAMA_FTYPE_MOSTLY_Q4_0),
        entry("MXFP4_MOE", LLAMA_FTYPE_MOSTLY_MXFP4_MOE),
        entry("Q3_K_L", LLAMA_FTYPE_MOSTLY_Q3_K_L),
        entry("Q3_K_M", LLAMA_FTYPE_MOSTLY_Q3_K_M),
        entry("Q3_K_S", LLAMA_FTYPE_MOSTLY_Q3_K_S),
        entry("IQ3_M", LLAMA_FTYPE_MOSTLY_IQ3_M),
        entry("IQ3_S", LLAMA_FTYPE_MOSTLY_IQ3_S),
        entry("IQ3_XS", LLAMA_FTYPE_MOSTLY_IQ3_XS),
        entry("IQ3_XXS", LLAMA_FTYPE_MOSTLY_IQ3_XXS),
        entry("Q2_K", LLAMA_FTYPE_MOSTLY_Q2_K),
        entry("Q2_K_S", LLAMA_FTYPE_MOSTLY_Q2_K_S),
        entry("Q2_0", LLAMA_FTYPE_MOSTLY_Q2_0),
        entry("IQ2_M", LLAMA_FTYPE_MOSTLY_IQ2_M),
        entry("IQ2_S", LLAMA_FTYPE_MOSTLY_IQ2_S),
        entry("IQ2_XS", LLAMA_FTYPE_MOSTLY_IQ2_XS),
        entry("IQ2_XXS", LLAMA_FTYPE_MOSTLY_IQ2_XXS),
        entry("TQ2_0", LLAMA_FTYPE_MOSTLY_TQ2_0),
        entry("TQ1_0", LLAMA_FTYPE_MOSTLY_TQ1_0),
        entry("IQ1_M", LLAMA_FTYPE_MOSTLY_IQ1_M),
        entry("IQ1_S", LLAMA_FTYPE_MOSTLY_IQ1_S),
        entry("Q1_0", LLAMA_FTYPE_MOSTLY_Q1_0),
    };
    return types;
}

std::vector<size_t> output_order(const std::vector<std::string> & names) {
    std::vector<size_t> order(names.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const llama_model_loader::weight_name_comparer before;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return before(names[a], names[b]); });
    return order;
}

std::vector<TensorDecision> decide_types(gguf_context * metadata, const std::string & path,
                                         const RuleOptions & options,
                                         const std::vector<TensorQuery> & queries) {
    guard::Scope scope;
    try {
        Tensors owner(queries.size());
        std::vector<ggml_tensor *> tensors;
        std::vector<tensor_metadata> facts(queries.size());
        for (const TensorQuery & query : queries) {
            facts[tensors.size()].name = query.name;
            tensors.push_back(owner.add(query));
        }
        Loader loader(metadata, path, options.overrides, tensors);
        const std::unique_ptr<llama_model_base> model = loader.model();
        const llama_model_quantize_params params = to_params(options);
        quantize_state_impl state(*model, &params);
        state.has_imatrix = options.has_importance;
        init_quantize_state_counters(state, facts);
        const ggml_type default_type = llama_ftype_get_default_type(params.ftype);

        std::vector<TensorDecision> rules;
        for (size_t i = 0; i < tensors.size(); ++i) {
            const std::optional<ggml_type> forced = queries[i].forced;
            state.tensor_type_patterns.clear();
            if (forced) {
                state.tensor_type_patterns.emplace_back(std::regex(""), *forced);
            }
            const quantize_state_impl before = state;
            TensorDecision rule;
            rule.may_quantize = tensor_allows_quantization(&params, model->arch, tensors[i]);
            rule.type = llama_tensor_get_type(state, &params, tensors[i], default_type, facts[i]);
            rule.wanted = rule.type;
            if (state.n_fallback != before.n_fallback) {
                rule.wanted =
                    without_fallback(before, options, tensors[i], default_type, facts[i], forced);
            }
            rule.needs_importance =
                rule.may_quantize &&
                tensor_requires_imatrix(tensors[i]->name, rule.type, params.ftype);
            rules.push_back(rule);
        }
        return rules;
    } catch (const std::invalid_argument &) {
        throw;
    } catch (const guard::UpstreamError & error) {
        throw ModelError(error.what());
    } catch (const std::runtime_error & error) {
        throw ModelError(guard::printable(error.what()));
    }
}

}  // namespace apex::llama
