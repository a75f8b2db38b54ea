// IQ2 and IQ3: every group of every part goes onto the codebook under every candidate for the
// part's scale.
//
// The candidates do not wait for each other; which of them wins is decided afterwards, in their
// order. Candidates of one group are neighbours among the threads: they read the same weights and
// often the same list of neighbours.
#pragma once

#include "cuda/neighbours.h"
#include "cuda/super_blocks.h"
#include "formats/grid_blocks.h"

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
    using Book = typename Format::template Book<L1>;

    float values[8];  // of the levels
    float x[Shape::blocks][kSuper];
    float weight[Shape::blocks][kSuper];
    float root[Shape::blocks][kSuper];  // of the weights
    int32_t signs[Shape::blocks][kSuper / 8];
    float sigma2[Shape::blocks];
    GridStart<L1> start[Shape::parts];
    int32_t entry[Shape::parts * Shape::per_part];  // code, and kOnGrid
    GridSums<L1> sums[Shape::parts][Shape::steps];
    typename Format::template Found<L1> found[Shape::parts];
    int32_t off[Shape::parts];  // which groups are to be looked up again
    Neighbours<Book, typename Format::Tables, Shape::threads / 2> neighbours;
    alignas(16) uint8_t bytes[Shape::blocks * Format::bytes];

    // Of part p, counted over all blocks.
    __device__ const float * x_of(int p) const { return at(x, p); }
    __device__ const float * weight_of(int p) const { return at(weight, p); }

    // Group k of part p under a scale.
    __device__ Point look_for(int p, int k, float inverse, float scale, float * level) const {
        const int first = k * Book::coordinates;
        Book::round(x_of(p) + first, inverse, level);
        return {x_of(p) + first, at(root, p) + first, scale, values};
    }

  private:
    __device__ static const float * at(const float (&of)[Shape::blocks][kSuper], int p) {
        return of[p / Format::parts] + p % Format::parts * Format::part;
    }
};

constexpr int32_t kOnGrid = 1 << 30;  // beside a code

// Magnitudes, signs and weights of all blocks, eight at a time.
template <typename Format, bool weighted, typename Range>
__device__ void take_magnitudes(const ThreadBlock & threads, const Range & range,
                                CodebookShared<Format> & shared) {
    threads.each(range.count * kSuper / 8, [&](int eight) {
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
        shared.signs[b][first / 8] = take_signs<L1>(x, weight, Format::rules().parity, magnitude);
        APEX_UNROLL
        for (int i = 0; i < 8; ++i) {
            shared.x[b][first + i] = magnitude[i];
            shared.weight[b][first + i] = weight[i];
            shared.root[b][first + i] = square_root(weight[i]);
        }
    });
}

// Every group under every scale, and the sums of every part under every scale.
template <typename Format, typename Range>
__device__ void try_all_scales(const ThreadBlock & threads, const Range & range, const Grid & grid,
                               CodebookShared<Format> & shared) {
    using Shape = CodebookShape<Format>;
    using Book = typename Format::template Book<L1>;
    constexpr GridRules rules = Format::rules();
    constexpr int groups = Format::groups;
    constexpr int steps = Shape::steps;
    threads.each(range.count * Format::parts, [&](int p) {
        shared.start[p] =
            grid_start<L1, Book, Format::part>(rules, shared.x_of(p), shared.weight_of(p));
    });
    snap_all<Book>(
        threads, grid, shared.neighbours, range.count * Format::parts * Shape::per_part,
        [](int) { return true; },
        [&](int item, float * level) {
            const int p = item / Shape::per_part;
            const int step = item % steps - rules.steps;
            const float inverse = tried_inverse<L1, Book>(rules, step, shared.start[p].largest);
            return shared.look_for(p, item / steps % groups, inverse, 1.f / inverse, level);
        },
        [&](int item, int32_t code, bool on_grid, bool is_far) {
            shared.entry[item] = on_grid ? code | kOnGrid : code;
            range.report(is_far && !shared.start[item / Shape::per_part].is_zero);
        });
    threads.each(range.count * Format::parts * steps, [&](int item) {
        const int p = item / steps;
        int32_t code[groups];
        APEX_UNROLL
        for (int k = 0; k < groups; ++k) {
            code[k] = shared.entry[(p * groups + k) * steps + item % steps] & ~kOnGrid;
        }
        shared.sums[p][item % steps] =
            sum_codes<L1, Book, groups>(code, shared.x_of(p), shared.weight_of(p));
    });
}

// The best scale of every part, in the order of the candidates, and which groups it wants to look
// up again.
template <typename Format, typename Range>
__device__ void choose_scales(const ThreadBlock & threads, const Range & range,
                              CodebookShared<Format> & shared) {
    constexpr GridRules rules = Format::rules();
    constexpr int groups = Format::groups;
    constexpr int steps = CodebookShape<Format>::steps;
    threads.each(range.count * Format::parts, [&](int p) {
        auto & found = shared.found[p];
        GridBest<L1> best{shared.start[p].scale, 0.f};
        int chosen = -1;
        for (int step = 0; step < steps; ++step) {
            chosen = best.offer(shared.sums[p][step]) ? step : chosen;
        }
        int32_t off = 0;
        APEX_UNROLL
        for (int k = 0; k < groups; ++k) {
            const int32_t entry = chosen < 0 ? (rules.refine == Refine::all_if_off ? 0 : kOnGrid)
                                             : shared.entry[(p * groups + k) * steps + chosen];
            found.code[k] = entry & ~kOnGrid;
            off |= (entry & kOnGrid) == 0 ? 1 << k : 0;
        }
        found.scale = best.scale;
        const bool wanted = wants_refinement<L1>(rules, best.scale, off == 0 ? ~0 : 0);
        const int all = (1 << groups) - 1;
        shared.off[p] = !wanted ? 0 : rules.refine == Refine::those_off ? off : all;
    });
}

// Those groups again, and what is found of every part in the end.
template <typename Format, typename Range>
__device__ void refine_parts(const ThreadBlock & threads, const Range & range, const Grid & grid,
                             CodebookShared<Format> & shared) {
    using Book = typename Format::template Book<L1>;
    constexpr GridRules rules = Format::rules();
    constexpr int groups = Format::groups;
    constexpr int eights = Format::part / 8;
    snap_all<Book>(
        threads, grid, shared.neighbours, range.count * Format::parts * groups,
        [&](int item) { return (shared.off[item / groups] >> item % groups & 1) != 0; },
        [&](int item, float * level) {
            const float scale = shared.found[item / groups].scale;
            return shared.look_for(item / groups, item % groups, 1.f / scale, scale, level);
        },
        [&](int item, int32_t code, bool, bool is_far) {
            shared.found[item / groups].code[item % groups] = code;
            range.report(is_far && !shared.start[item / groups].is_zero);
        });
    threads.each(range.count * Format::parts, [&](int p) {
        auto & found = shared.found[p];
        if (shared.off[p] != 0) {
            const auto sums =
                sum_codes<L1, Book, groups>(found.code, shared.x_of(p), shared.weight_of(p));
            found.scale = sums.q2 > 0.f ? sums.qx / sums.q2 : found.scale;
        }
        found.is_zero = shared.start[p].is_zero;
        range.report(found.scale != found.scale && !found.is_zero);
        APEX_UNROLL
        for (int k = 0; k < eights; ++k) {
            found.signs[k] = shared.signs[p / Format::parts][p % Format::parts * eights + k];
        }
        finish_part<L1, groups, eights>(rules, found);
    });
}

template <typename Format, bool weighted>
__device__ void quantize_codebook(const ThreadBlock & threads,
                                  const cuda::QuantizeArguments & arguments) {
    auto & shared = threads.shared<CodebookShared<Format>>();
    const Range<kSuper, Format::bytes, CodebookShape<Format>::blocks> range(threads, arguments);
    const Grid grid = codebook(threads, arguments.tables);
    threads.each(8, [&](int level) { shared.values[level] = static_cast<float>(2 * level + 1); });
    load_super_blocks<Format, weighted>(threads, range, shared);
    take_magnitudes<Format, weighted>(threads, range, shared);
    try_all_scales(threads, range, grid, shared);
    choose_scales(threads, range, shared);
    refine_parts(threads, range, grid, shared);
    threads.each(range.count, [&](int b) {
        uint8_t * bytes = shared.bytes + b * Format::bytes;
        typename Format::template Scales<L1> none;
        Format::template combine<L1, weighted>(grid, &shared.found[b * Format::parts], &none,
                                               bytes);
        range.report(Format::halves::any_infinite(bytes));
    });
    range.store(threads, shared.bytes);
}

template <typename Format, bool weighted>
__global__ void __launch_bounds__(CodebookShape<Format>::threads, 4)
    codebook_kernel(cuda::QuantizeArguments arguments) {
    quantize_codebook<Format, weighted>(ThreadBlock(), arguments);
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
