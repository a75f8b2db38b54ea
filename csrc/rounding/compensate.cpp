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

void quantize_compensated(const void * source, ggml_type source_type, const engine::Shape & shape,
                          ggml_type type, const float * importance, const Objective & objective,
                          void * target, int sweeps, int how, double * objective_of_rows,
                          int threads) {
    const CompensateRows kernel = dispatch::kernels().compensate[type];
    if (kernel == nullptr) {
        throw std::invalid_argument("type " + engine::facts_of(type).name +
                                    " has no compensated rounding");
    }
    if (objective.columns() != shape.columns || shape.experts != 1) {
        throw std::invalid_argument("the objective is for matrices of " +
                                    std::to_string(objective.columns()) + " columns");
    }
    engine::quantize_rows(source, source_type, shape, type, importance, target, threads);
    std::vector<float> values(static_cast<size_t>(shape.rows * shape.columns));
    engine::dequantize_rows(source, source_type, shape, values.data(), threads);
    const size_t row_bytes = ggml_row_size(type, shape.columns);
    const int64_t strips = (shape.rows + kStripRows - 1) / kStripRows;
    engine::parallel_for(strips, threads, [&](int64_t strip) {
        guard::Scope scope;
        const int64_t first = strip * kStripRows;
        Compensation job{};
        job.values = values.data() + first * shape.columns;
        job.rows = std::min(kStripRows, shape.rows - first);
        job.columns = shape.columns;
        job.target = static_cast<uint8_t *>(target) + static_cast<size_t>(first) * row_bytes;
        job.moments = objective.moments();
        job.factors = objective.factors();
        job.pivots = objective.pivots();
        job.scratch = scratch(shape.columns);
        job.sweeps = sweeps;
        job.how = how;
        job.objective = objective_of_rows == nullptr ? nullptr : objective_of_rows + 2 * first;
        kernel(job);
        if (!ggml_validate_row_data(type, job.target,
                                    static_cast<size_t>(job.rows) * row_bytes)) {
            throw engine::BadData("a weight is too large for " + engine::facts_of(type).name,
                                  first);
        }
    });
}

}  // namespace apex::rounding
