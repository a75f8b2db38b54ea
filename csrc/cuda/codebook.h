// IQ2 and IQ3: every group of every part goes onto the codebook under every candidate for the
// part's scale.
//
// The candidates do not wait for each other; which of them wins is decided afterwards, in their
// order. Candidates of one group are neighbours among the threads: they read the same weights and
// often the same list of neighbours.
#pragma once

#include "cuda/neighbours.h"
#include "cuda/super_blocks.h"
#include "formats/iq23.h"

namespace apex {
namespace {

template <typename Format>
struct CodebookShape {
    static constexpr int threads = 128;
    static constexpr int steps = 2 * Format::rules().steps + 1;
    static constexpr int per_part = Format::groups * steps;
    // As many as shared memory has room for on every GPU.
    static constexpr int blocks = Format::parts * per_part <= 512 ? 4 : 2;
    static constexpr int parts = blocks * Format::parts;
};

template <typename Format>
struct CodebookShared {
    using Shape = CodebookShape<Format>;
    float values[8];  // of the levels
    float x[Shape::blocks][kSuper];
    float weight[Shape::blocks][kSuper];
    float root[Shape::blocks][kSuper];  // of the weights
    int32_t signs[Shape::blocks][kSuper / 8];
    float sigma2[Shape::blocks];
    GridStart<L1> start[Shape::parts];
    int32_t entry[Shape::parts * Shape::per_part];  // code, and kOn where it is on the grid
    GridSums<L1> sums[Shape::parts][Shape::steps];
    typename Format::template Found<L1> found[Shape::parts];
    int32_t off[Shape::parts];  // which groups are to be looked up again
    Neighbours<typename Format::template Book<L1>, typename Format::Tables, Shape::threads / 2>
        neighbours;
    alignas(16) uint8_t bytes[Shape::blocks * Format::bytes];
};

template <typename Format, bool weighted>
__device__ void quantize_codebook(const Block & block, const cuda::QuantizeArguments & arguments) {
    using Shape = CodebookShape<Format>;
    using Book = typename Format::template Book<L1>;
    constexpr int parts = Format::parts;
    constexpr int part = Format::part;
    constexpr int groups = Format::groups;
    constexpr int steps = Shape::steps;
    constexpr int32_t kOn = 1 << 30;
    constexpr GridRules rules = Format::rules();
    auto & shared = block.shared<CodebookShared<Format>>();
    const Range<kSuper, Format::bytes, Shape::blocks> range(block, arguments);

    const Grid grid = codebook(block, arguments.tables);
    block.each(8, [&](int level) { shared.values[level] = static_cast<float>(2 * level + 1); });
    load_super_blocks<Format, weighted>(block, range, shared);
    block.each(range.count * kSuper / 8, [&](int eight) {
        const int b = eight / (kSuper / 8);
        const int first = eight % (kSuper / 8) * 8;
        float x[8], weight[8], magnitude[8];
        APEX_UNROLL
        for (int i = 0; i < 8; ++i) {
            x[i] = shared.x[b][first + i];
        }
        if constexpr (weighted) {
            load_floats(range.importance(b) + first, 8, weight);
        }
        grid_weights<L1, 8, weighted>(x, shared.sigma2[b], Format::share, weight);
        shared.signs[b][first / 8] = take_signs<L1>(x, weight, rules.parity, magnitude);
        APEX_UNROLL
        for (int i = 0; i < 8; ++i) {
            shared.x[b][first + i] = magnitude[i];
            shared.weight[b][first + i] = weight[i];
            shared.root[b][first + i] = square_root(weight[i]);
        }
    });
    const auto x_of = [&](int p) { return shared.x[p / parts] + p % parts * part; };
    const auto weight_of = [&](int p) { return shared.weight[p / parts] + p % parts * part; };
    // Group k of part p under a scale.
    const auto look_for = [&](int p, int k, float inverse, float scale, float * level) {
        const int first = k * Book::coordinates;
        Book::round(x_of(p) + first, inverse, level);
        const float * root = shared.root[p / parts] + p % parts * part + first;
        return Point{x_of(p) + first, root, scale, shared.values};
    };
    const auto report_far = [&](int p, bool is_far) {
        range.report(is_far && !shared.start[p].is_zero);
    };
    block.each(range.count * parts, [&](int p) {
        shared.start[p] = grid_start<L1, Book, part>(rules, x_of(p), weight_of(p));
    });
    snap_all<Book>(
        block, grid, shared.neighbours, range.count * parts * Shape::per_part,
        [](int) { return true; },
        [&](int item, float * level) {
            const int p = item / Shape::per_part;
            const int step = item % steps - rules.steps;
            const float inverse = tried_inverse<L1, Book>(rules, step, shared.start[p].largest);
            return look_for(p, item / steps % groups, inverse, 1.f / inverse, level);
        },
        [&](int item, int32_t code, bool on_grid, bool is_far) {
            shared.entry[item] = on_grid ? code | kOn : code;
            report_far(item / Shape::per_part, is_far);
        });
    block.each(range.count * parts * steps, [&](int item) {
        const int p = item / steps;
        int32_t code[groups];
        APEX_UNROLL
        for (int k = 0; k < groups; ++k) {
            code[k] = shared.entry[(p * groups + k) * steps + item % steps] & ~kOn;
        }
        shared.sums[p][item % steps] = sum_codes<L1, Book, groups>(code, x_of(p), weight_of(p));
    });
    block.each(range.count * parts, [&](int p) {
        auto & found = shared.found[p];
        GridBest<L1> best{shared.start[p].scale, 0.f};
        int chosen = -1;
        for (int step = 0; step < steps; ++step) {
            chosen = best.offer(shared.sums[p][step]) ? step : chosen;
        }
        int32_t off = 0;
        APEX_UNROLL
        for (int k = 0; k < groups; ++k) {
            const int32_t entry = chosen < 0 ? (rules.refine == Refine::all_if_off ? 0 : kOn)
                                             : shared.entry[(p * groups + k) * steps + chosen];
            found.code[k] = entry & ~kOn;
            off |= (entry & kOn) == 0 ? 1 << k : 0;
        }
        found.scale = best.scale;
        const bool wanted = wants_refinement<L1>(rules, best.scale, off == 0 ? ~0 : 0);
        const int all = (1 << groups) - 1;
        shared.off[p] = !wanted ? 0 : rules.refine == Refine::those_off ? off : all;
    });
    snap_all<Book>(
        block, grid, shared.neighbours, range.count * parts * groups,
        [&](int item) { return (shared.off[item / groups] >> item % groups & 1) != 0; },
        [&](int item, float * level) {
            const float scale = shared.found[item / groups].scale;
            return look_for(item / groups, item % groups, 1.f / scale, scale, level);
        },
        [&](int item, int32_t code, bool, bool is_far) {
            shared.found[item / groups].code[item % groups] = code;
            report_far(item / groups, is_far);
        });
    block.each(range.count * parts, [&](int p) {
        auto & found = shared.found[p];
        if (shared.off[p] != 0) {
            const auto sums = sum_codes<L1, Book, groups>(found.code, x_of(p), weight_of(p));
            found.scale = sums.q2 > 0.f ? sums.qx / sums.q2 : found.scale;
        }
        found.is_zero = shared.start[p].is_zero;
        range.report(found.scale != found.scale && !found.is_zero);
        APEX_UNROLL
        for (int k = 0; k < part / 8; ++k) {
            found.signs[k] = shared.signs[p / parts][p % parts * (part / 8) + k];
        }
        finish_part<L1, groups, part / 8>(rules, found);
    });
    block.each(range.count, [&](int b) {
        uint8_t * bytes = shared.bytes + b * Format::bytes;
        typename Format::template Scales<L1> none;
        Format::template combine<L1, weighted>(grid, static_cast<const float *>(nullptr),
                                               static_cast<const float *>(nullptr),
                                               &shared.found[b * parts], &none, bytes);
        range.report(Format::halves::any_infinite(bytes));
    });
    range.store(block, shared.bytes);
}

template <typename Format, bool weighted>
__global__ void __launch_bounds__(CodebookShape<Format>::threads, 4)
    codebook_kernel(cuda::QuantizeArguments arguments) {
    quantize_codebook<Format, weighted>(Block(), arguments);
}

template <typename Format, bool weighted>
cuda::QuantizeKernel codebook_entry(int type) {
    static_assert(sizeof(CodebookShared<Format>) <= cuda::kSharedBytes);
    return {type,
            weighted,
            codebook_kernel<Format, weighted>,
            grid_tables<typename Format::Tables>,
            CodebookShape<Format>::threads,
            CodebookShape<Format>::blocks,
            sizeof(CodebookShared<Format>),
            kSuper,
            Format::bytes,
            false};
}

}  // namespace
}  // namespace apex
