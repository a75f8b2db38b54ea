// Launches the project's kernels in the interpreter as csrc/cuda/quantizer.cu and sums.cu do it on
// a GPU: how many threads, how much shared memory and which tables say the lists of csrc/cuda,
// compiled for the processor. For Python's ctypes.
#include <dlfcn.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "cuda/arguments.h"
#include "engine/fp_environment.h"
#include "machine.h"

namespace {

using namespace apex::cuda;
using ptx::Buffer;
using ptx::Error;

uint32_t blocks_for(int64_t items, int64_t per_block) {
    return static_cast<uint32_t>((items + per_block - 1) / per_block);
}

std::vector<QuantizeKernel> all_quantizers() {
    std::vector<QuantizeKernel> all;
    for (auto family : {small_kernels, q2_q3_kernels, q4_q5_kernels, q6_kernels, iq4_kernels,
                        iq3_kernels, iq2_kernels, iq1_kernels}) {
        const std::vector<QuantizeKernel> some = family();
        all.insert(all.end(), some.begin(), some.end());
    }
    return all;
}

template <typename Kernels, typename Fits>
auto find(const Kernels & kernels, Fits fits) {
    const auto found = std::find_if(kernels.begin(), kernels.end(), fits);
    if (found == kernels.end()) {
        throw Error("there is no kernel for this type");
    }
    return *found;
}

class TablesInBuffers final : public TableMemory {
  public:
    explicit TablesInBuffers(ptx::GlobalMemory & memory) : memory_(memory) {}

    const void * of(const QuantizeKernel & kernel) {
        const auto [found, is_new] = known_.try_emplace(kernel.tables, nullptr);
        if (is_new) {
            const std::vector<unsigned char> bytes = kernel.tables(*this);
            found->second = copy(bytes.data(), bytes.size());
        }
        return found->second;
    }

    const void * copy(const void * data, size_t bytes) override {
        buffers_.push_back(std::make_unique<Buffer>(memory_, data, bytes, Buffer::Use::constant));
        return buffers_.back()->as<void>();
    }

  private:
    ptx::GlobalMemory & memory_;
    std::map<MakeTables, const void *> known_;
    std::vector<std::unique_ptr<Buffer>> buffers_;
};

}  // namespace

// The order of the fields is known to test_ptx.py.
struct Rows {
    const void * source;
    int64_t source_type;  // a Source
    int64_t source_bytes;
    const float * importance;  // of every expert, or null
    int64_t experts, rows, columns;
    int64_t type;  // a ggml_type
    unsigned char * target;
    int64_t target_bytes;
};

struct Activations {
    const float * rows;
    int64_t count, columns;
    const int32_t * experts;  // of every row, or null
    int64_t matrices;
    float * sums;
    int64_t * counts;
};

struct Outcome {
    int64_t hazards;
    char first_hazard[200];
    int64_t not_finite, too_large;
};

class Launcher {
  public:
    void load(const std::string & path) {
        std::ifstream file(path);
        std::ostringstream text;
        text << file.rdbuf();
        if (!file) {
            throw Error("cannot be read: " + path);
        }
        modules_.push_back(ptx::parse(text.str(), memory_));
    }

    // Says where in this library the function of an entry of the PTX is.
    void name(uint64_t offset, const std::string & entry) {
        Dl_info here;
        if (dladdr(reinterpret_cast<const void *>(all_quantizers), &here) == 0) {
            throw Error("this library is not found");
        }
        names_[reinterpret_cast<uintptr_t>(here.dli_fbase) + offset] = entry;
    }

    void quantize(const Rows & rows, bool backwards, Outcome & outcome) {
        const QuantizeKernel kernel = find(all_quantizers(), [&](const QuantizeKernel & one) {
            return one.type == rows.type && one.weighted == (rows.importance != nullptr);
        });
        const auto all_rows = static_cast<uint32_t>(rows.experts * rows.rows);
        const Buffer source(memory_, rows.source, static_cast<size_t>(rows.source_bytes),
                            Buffer::Use::constant);
        const Buffer importance(
            memory_, rows.importance,
            rows.importance == nullptr ? 0 : sizeof(float) * size(rows.experts * rows.columns),
            Buffer::Use::constant);
        const Buffer mean_squares(memory_, nullptr, sizeof(float) * all_rows,
                                  Buffer::Use::variable);
        const Buffer target(memory_, nullptr, size(rows.target_bytes), Buffer::Use::variable);
        const Flags none{};
        const Buffer flags(memory_, &none, sizeof(none), Buffer::Use::variable);
        const auto source_type = static_cast<Source>(rows.source_type);
        const auto columns = static_cast<uint32_t>(rows.columns);
        if (kernel.by_row) {
            const RowArguments arguments{source.as<void>(), source_type, mean_squares.as<float>(),
                                         all_rows, columns};
            launch(row_kernel(), arguments,
                   {blocks_for(all_rows, kRowsPerThreadBlock), kThreads, row_shared_bytes(),
                    backwards},
                   outcome);
        }
        const auto weights = static_cast<uint32_t>(kernel.weights);
        const QuantizeArguments arguments{
            source.as<void>(),
            source_type,
            rows.importance == nullptr ? nullptr : importance.as<float>(),
            mean_squares.as<float>(),
            tables_.of(kernel),
            target.as<uint8_t>(),
            static_cast<uint32_t>(rows.experts * rows.rows * rows.columns / weights),
            columns / weights,
            static_cast<uint32_t>(rows.rows),
            flags.as<Flags>(),
        };
        launch(kernel.function, arguments,
               {blocks_for(arguments.blocks, kernel.blocks), static_cast<uint32_t>(kernel.threads),
                kernel.shared_bytes, backwards},
               outcome);
        std::copy_n(target.as<unsigned char>(), target.size(), rows.target);
        outcome.not_finite = flags.as<Flags>()->not_finite;
        outcome.too_large = flags.as<Flags>()->too_large;
    }

    void dequantize(int64_t type, const void * blocks, int64_t weights, float * values,
                    bool backwards, Outcome & outcome) {
        const DequantizeKernel kernel = find(
            dequantize_kernels(), [&](const DequantizeKernel & one) { return one.type == type; });
        const Buffer source(memory_, blocks, size(weights / kernel.weights * kernel.bytes),
                            Buffer::Use::constant);
        const Buffer target(memory_, nullptr, sizeof(float) * size(weights), Buffer::Use::variable);
        const DequantizeArguments arguments{source.as<uint8_t>(), target.as<float>(),
                                            static_cast<uint32_t>(weights / 8)};
        launch(kernel.function, arguments,
               {blocks_for(arguments.eights, kThreads), kThreads, 0, backwards}, outcome);
        std::copy_n(target.as<unsigned char>(), target.size(),
                    reinterpret_cast<unsigned char *>(values));
    }

    // Adds to the sums and counts.
    void add_squares(const Activations & given, bool backwards, Outcome & outcome) {
        const bool has_experts = given.experts != nullptr;
        const size_t row_bytes = sizeof(float) * size(given.columns);
        const Buffer rows(memory_, given.rows, row_bytes * size(given.count),
                          Buffer::Use::constant);
        const Buffer experts(memory_, given.experts,
                             has_experts ? sizeof(int32_t) * size(given.count) : 0,
                             Buffer::Use::constant);
        const Buffer sums(memory_, given.sums, row_bytes * size(given.matrices),
                          Buffer::Use::variable);
        const Buffer counts(memory_, given.counts, sizeof(int64_t) * size(given.matrices),
                            Buffer::Use::variable);
        SquaresArguments arguments{};
        arguments.activations = rows.as<const char>();
        std::fill_n(arguments.extents, 3, 1);
        arguments.extents[has_experts ? 1 : 0] = given.count;
        arguments.strides[has_experts ? 1 : 0] = static_cast<int64_t>(row_bytes);
        if (has_experts) {
            arguments.ids = experts.as<const char>();
            arguments.used = 1;
            arguments.tokens = given.count;
            arguments.id_strides[1] = sizeof(int32_t);
        }
        arguments.matrices[0] = given.matrices;
        arguments.matrices[1] = 1;
        arguments.columns = given.columns;
        arguments.sums = sums.as<float>();
        arguments.counts = counts.as<unsigned long long>();
        const uint32_t blocks =
            blocks_for(given.columns, kThreads) * static_cast<uint32_t>(given.matrices);
        launch(squares_kernel(), arguments, {blocks, kThreads, 0, backwards}, outcome);
        std::copy_n(sums.as<float>(), sums.size() / sizeof(float), given.sums);
        std::copy_n(counts.as<int64_t>(), given.matrices, given.counts);
    }

  private:
    static size_t size(int64_t count) { return static_cast<size_t>(count); }

    template <typename Arguments>
    void launch(void (*function)(Arguments), const Arguments & arguments, const ptx::Launch & shape,
                Outcome & outcome) const {
        const auto * const bytes = reinterpret_cast<const unsigned char *>(&arguments);
        const ptx::Hazards hazards = run(entry(reinterpret_cast<uintptr_t>(function)), shape,
                                         {bytes, bytes + sizeof(arguments)}, memory_);
        if (outcome.hazards == 0) {
            const size_t length =
                hazards.first.copy(outcome.first_hazard, sizeof(outcome.first_hazard) - 1);
            outcome.first_hazard[length] = '\0';
        }
        outcome.hazards += hazards.count;
    }

    const ptx::Kernel & entry(uintptr_t function) const {
        const auto name = names_.find(function);
        if (name != names_.end()) {
            for (const ptx::Module & module : modules_) {
                const auto found = module.kernels.find(name->second);
                if (found != module.kernels.end()) {
                    return found->second;
                }
            }
        }
        throw Error("the kernel is in no PTX that was loaded");
    }

    ptx::GlobalMemory memory_;
    TablesInBuffers tables_{memory_};
    std::vector<ptx::Module> modules_;
    std::map<uintptr_t, std::string> names_;  // by the functions of the emulated kernels
};

// Each returns null, or what is wrong; the text lasts until the next call.
template <typename Function>
const char * attempt(Function function) {
    static thread_local std::string wrong;
    const apex::engine::FpEnvironment exact;
    try {
        function();
        return nullptr;
    } catch (const std::exception & error) {
        wrong = error.what();
        return wrong.c_str();
    }
}

extern "C" {

Launcher * launcher_open() {
    return new Launcher;
}

void launcher_close(Launcher * launcher) {
    delete launcher;
}

const char * launcher_load(Launcher * launcher, const char * path) {
    return attempt([&] { launcher->load(path); });
}

const char * launcher_name(Launcher * launcher, uint64_t offset, const char * entry) {
    return attempt([&] { launcher->name(offset, entry); });
}

const char * launcher_quantize(Launcher * launcher, const Rows * rows, int backwards,
                               Outcome * outcome) {
    return attempt([&] { launcher->quantize(*rows, backwards != 0, *outcome); });
}

const char * launcher_dequantize(Launcher * launcher, int64_t type, const void * blocks,
                                 int64_t weights, float * values, int backwards,
                                 Outcome * outcome) {
    return attempt(
        [&] { launcher->dequantize(type, blocks, weights, values, backwards != 0, *outcome); });
}

const char * launcher_add_squares(Launcher * launcher, const Activations * given, int backwards,
                                  Outcome * outcome) {
    return attempt([&] { launcher->add_squares(*given, backwards != 0, *outcome); });
}

}  // extern "C"
