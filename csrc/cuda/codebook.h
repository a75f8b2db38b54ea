// IQ2 and IQ3: a thread takes one group of one part under one candidate for the part's scale.
//
// The candidates do not wait for each other; which of them wins is decided afterwards, in their
// order. Candidates of one group are neighbours among the threads: they read the same weights and
// often the same list of neighbours.
#pragma once

#include "cuda/super_blocks.h"
#include "kernels/iq23.h"

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
    static constexpr int terms = Format::template Book<L1>::coordinates
                                 << Format::template Book<L1>::bits;
};

template <typename Format>
struct CodebookShared {
    using Shape = CodebookShape<Format>;
    Grid grid;
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
    float terms[Shape::terms * Shape::threads];
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

    load_tables(block, arguments.tables, &shared.grid);
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
    // The code of group k of part p under a scale, and kOn.
    const auto snap = [&](int p, int k, float inverse, float scale) {
        const int first = k * Book::coordinates;
        float level[Book::coordinates];
        Book::round(x_of(p) + first, inverse, level);
        int32_t on_grid;
        int32_t far = 0;
        const float * root = shared.root[p / parts] + p % parts * part + first;
        const int32_t code =
            Book::snap(shared.grid, level, {x_of(p) + first, root, 0, shared.values}, scale,
                       &on_grid, &far, SharedTerms<Shape::threads>{shared.terms, block.thread()});
        range.report(far != 0 && !shared.start[p].is_zero);
        return code | (on_grid & kOn);
    };
    block.each(range.count * parts, [&](int p) {
        shared.start[p] = grid_start<L1, Book, part>(rules, x_of(p), weight_of(p));
    });
    block.each(range.count * parts * Shape::per_part, [&](int item) {
        const int p = item / Shape::per_part;
        const int step = item % steps - rules.steps;
        const float inverse = tried_inverse<L1, Book>(rules, step, shared.start[p].largest);
        shared.entry[item] = snap(p, item / steps % groups, inverse, 1.f / inverse);
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
    block.each(range.count * parts * groups, [&](int item) {
        const int p = item / groups;
        const int k = item % groups;
        if ((shared.off[p] >> k & 1) != 0) {
            const float scale = shared.found[p].scale;
            shared.found[p].code[k] = snap(p, k, 1.f / scale, scale) & ~kOn;
        }
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
        Format::template combine<L1, weighted>(shared.grid, static_cast<const float *>(nullptr),
                                               static_cast<const float *>(nullptr),
                                               &shared.found[b * parts], &none, bytes);
        range.report(Format::halves::any_infinite(bytes));
    });
    range.store(block, shared.bytes);
}

template <typename Format, bool weighted>
__global__ void __launch_bounds__(CodebookShape<Format>::threads)
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
