#include "compensate.h"

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "dispatch/dispatch.h"
#include "engine/parallel.h"
#include "engine/types.h"
#include "guard/guard.h"

namespace apex::rounding {

namespace {

constexpr int kSweeps = 2;
// Rows that a task takes: whole tiles, whatever the instruction set.
constexpr int64_t kStripRows = 64;

struct Aligned {
    void operator()(float * memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};

// This thread's room for a kernel.
float * scratch(int64_t columns) {
    thread_local std::unique_ptr<float[], Aligned> memory;
    thread_local int64_t room = 0;
    if (room < columns) {
        const auto bytes = static_cast<size_t>(columns * kCompensationScratch) * sizeof(float);
        memory.reset(static_cast<float *>(::operator new[](bytes, std::align_val_t{64})));
        room = columns;
    }
    return memory.get();
}

}  // namespace

void compensate_rows(const void * source, ggml_type source_type, const engine::Shape & shape,
                     ggml_type type, const Objective & objective, void * target, int threads) {
    const CompensateRows kernel = dispatch::kernels().compensate[type];
    if (kernel == nullptr) {
        throw std::invalid_argument("type " + engine::facts_of(type).name +
                                    " has no compensated rounding");
    }
    if (objective.columns() != shape.columns || shape.experts != 1) {
        throw std::invalid_argument("the objective is for one matrix of " +
                                    std::to_string(objective.columns()) + " columns");
    }
    const size_t source_bytes = ggml_row_size(source_type, shape.columns);
    const size_t target_bytes = ggml_row_size(type, shape.columns);
    const int64_t strips = (shape.rows + kStripRows - 1) / kStripRows;
    engine::parallel_for(strips, threads, [&](int64_t strip) {
        guard::Scope scope;
        const int64_t first = strip * kStripRows;
        const int64_t rows = std::min(kStripRows, shape.rows - first);
        thread_local std::vector<float> values;
        values.resize(static_cast<size_t>(rows * shape.columns));
        engine::dequantize_rows(
            static_cast<const uint8_t *>(source) + static_cast<size_t>(first) * source_bytes,
            source_type, {1, rows, shape.columns}, values.data(), 1);
        if (!dispatch::kernels().all_finite(values.data(), rows * shape.columns)) {
            throw engine::BadData("a weight is NaN or infinite", first);
        }
        Compensation job{};
        job.values = values.data();
        job.rows = rows;
        job.columns = shape.columns;
        job.target = static_cast<uint8_t *>(target) + static_cast<size_t>(first) * target_bytes;
        job.moments = objective.moments();
        job.factors = objective.factors();
        job.pivots = objective.pivots();
        job.scratch = scratch(shape.columns);
        job.sweeps = kSweeps;
        kernel(job);
        if (!ggml_validate_row_data(type, job.target, static_cast<size_t>(rows) * target_bytes)) {
            throw engine::BadData("a weight is too large for " + engine::facts_of(type).name,
                                  first);
        }
    });
}

}  // namespace apex::rounding
