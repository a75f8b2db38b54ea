// IQ1: a thread tries every pair of boundaries of a part; sorting and snapping are shared.
//
// Whether a pair is better depends on the best so far, so the pairs of a part follow each other.
// Their prefix sums lie in shared memory, part beside part.
#pragma once

#include "cuda/neighbours.h"
#include "cuda/super_blocks.h"
#include "formats/iq1.h"

namespace apex {
namespace {

struct SplitShape {
    static constexpr int threads = 128;  // all but one warp wait while the pairs are tried
    static constexpr int parts = 32;
};

template <typename Format>
struct SplitShared {
    static constexpr int blocks = SplitShape::parts / Format::parts;
    using Array = Strided<SplitShape::parts>;
    using Sums = std::conditional_t<Format::by_halves, HalfSums<L1, Format::part, Array>,
                                    WholeSums<L1, Format::part, Array>>;
    float x[blocks][kSuper];
    float weight[blocks][kSuper];
    float sigma2[blocks];
    // A part's weights in ascending order, and where they came from.
    float sorted_value[SplitShape::parts][Format::part];
    float sorted_weight[SplitShape::parts][Format::part];
    uint8_t sorted_place[SplitShape::parts][Format::part];
    uint8_t level[SplitShape::parts][Format::part];
    union {
        float sums[Sums::arrays * (Format::part + 1) * SplitShape::parts];  // until all are found
        Neighbours<Codebook<L1, 8, 2>, typename Format::Tables, SplitShape::parts> neighbours;
    };
    float values[2][4];  // of the levels, shifted up and down
    typename Format::template Found<L1> found[SplitShape::parts];
    bool is_empty[SplitShape::parts];
    int32_t on_grid[SplitShape::parts][Format::groups];
    alignas(16) uint8_t bytes[blocks * Format::bytes];

    // Of part p, counted over all blocks.
    __device__ const float * x_of(int p) const { return at(x, p); }
    __device__ const float * weight_of(int p) const { return at(weight, p); }

  private:
    __device__ static const float * at(const float (&of)[blocks][kSuper], int p) {
        return of[p / Format::parts] + p % Format::parts * Format::part;
    }
};

template <typename Format>
__device__ typename SplitShared<Format>::Sums sums_of(SplitShared<Format> & shared, int p) {
    const auto at = [&](int array) {
        return typename SplitShared<Format>::Array{
            shared.sums + array * (Format::part + 1) * SplitShape::parts + p};
    };
    if constexpr (Format::by_halves) {
        return {{at(0), at(1)}, {at(2), at(3)}, {{at(4), at(5)}, {at(6), at(7)}}};
    } else {
        return {at(0), at(1), {at(2), at(3)}, {at(4), at(5)}};
    }
}

// The weights of the errors, eight at a time.
template <typename Format, bool weighted, typename Range>
__device__ void weigh_all(const ThreadBlock & threads, const Range & range,
                          SplitShared<Format> & shared) {
    threads.each(range.count * kSuper / 8, [&](int eight) {
        const int b = eight / (kSuper / 8);
        const int first = eight % (kSuper / 8) * 8;
        float x[8], weight[8];
        APEX_UNROLL
        for (int i = 0; i < 8; ++i) {
            x[i] = shared.x[b][first + i];
        }
        if constexpr (weighted) {
            load_floats(range.importance(b) + first, 8, weight);
        }
        Format::template weigh<L1, weighted, 8>(x, shared.sigma2[b], weight);
        APEX_UNROLL
        for (int i = 0; i < 8; ++i) {
            shared.weight[b][first + i] = weight[i];
        }
    });
}

// Sorts every part; then a thread tries all pairs of boundaries of one.
template <typename Format, typename Range>
__device__ void split_parts(const ThreadBlock & threads, const Range & range,
                            SplitShared<Format> & shared) {
    constexpr int part = Format::part;
    threads.each(range.count * kSuper, [&](int item) {
        const int p = item / part;
        const int i = item % part;
        const int rank = rank_of<part>(shared.x_of(p), i);
        shared.sorted_value[p][rank] = shared.x_of(p)[i];
        shared.sorted_weight[p][rank] = shared.weight_of(p)[i];
        shared.sorted_place[p][rank] = static_cast<uint8_t>(i);
    });
    threads.each(range.count * Format::parts, [&](int p) {
        struct {
            const float * value;
            const float * weight;
            const uint8_t * place;
        } sorted{shared.sorted_value[p], shared.sorted_weight[p], shared.sorted_place[p]};
        auto sums = sums_of<Format>(shared, p);
        sums.fill(sorted);
        const float max = largest_magnitude<L1, part>(shared.x_of(p));
        const SplitLevels<L1, Format::by_halves> split(sums.search(max), max, Format::smallest);
        for (int j = 0; j < part; ++j) {
            shared.level[p][sorted.place[j]] = static_cast<uint8_t>(split.level(j));
        }
        shared.found[p].scale = split.scale;
        shared.found[p].shift = split.shift;
        shared.is_empty[p] = split.is_empty;
    });
}

// The groups of every part onto the codebook, and the scale that this gives.
template <typename Format, typename Range>
__device__ void snap_parts(const ThreadBlock & threads, const Range & range, const Grid & grid,
                           SplitShared<Format> & shared) {
    constexpr int groups = Format::groups;
    snap_all<Codebook<L1, 8, 2>>(
        threads, grid, shared.neighbours, range.count * Format::parts * groups,
        [](int) { return true; },
        [&](int item, float * level) {
            const int p = item / groups;
            const int first = item % groups * 8;
            APEX_UNROLL
            for (int i = 0; i < 8; ++i) {
                level[i] = static_cast<float>(shared.level[p][first + i]);
            }
            const bool down = is_down<L1, Format::by_halves>(shared.found[p].shift, item % groups);
            return Point{shared.x_of(p) + first, shared.weight_of(p) + first, shared.found[p].scale,
                         shared.values[down ? 1 : 0]};
        },
        [&](int item, int32_t code, bool on_grid, bool is_far) {
            shared.found[item / groups].code[item % groups] = code;
            shared.on_grid[item / groups][item % groups] = on_grid ? ~0 : 0;
            range.report(is_far && !shared.is_empty[item / groups]);
        });
    threads.each(range.count * Format::parts, [&](int p) {
        int32_t all_on = ~0;
        APEX_UNROLL
        for (int k = 0; k < groups; ++k) {
            all_on &= shared.on_grid[p][k];
        }
        auto & found = shared.found[p];
        rescale<L1, groups, Format::by_halves>(found, all_on, shared.x_of(p), shared.weight_of(p));
        range.report(found.scale != found.scale && !shared.is_empty[p]);
        finish_split<L1, groups>(shared.is_empty[p], found);
    });
}

template <typename Format, bool weighted>
__device__ void quantize_split(const ThreadBlock & threads,
                               const cuda::QuantizeArguments & arguments) {
    auto & shared = threads.shared<SplitShared<Format>>();
    const Range<kSuper, Format::bytes, SplitShared<Format>::blocks> range(threads, arguments);
    const Grid grid = codebook(threads, arguments.tables);
    load_super_blocks<Format, weighted>(threads, range, shared);
    threads.each(8, [&](int i) {
        shared.values[i / 4][i % 4] = i % 4 == 3 ? 0.f : shifted_level<L1>(i / 4 == 1, i % 4);
    });
    weigh_all<Format, weighted>(threads, range, shared);
    split_parts(threads, range, shared);
    snap_parts(threads, range, grid, shared);
    threads.each(range.count, [&](int b) {
        uint8_t * bytes = shared.bytes + b * Format::bytes;
        const auto * found = &shared.found[b * Format::parts];
        typename Format::template Scales<L1> none;
        if constexpr (Format::keeps_weights) {
            range.report(Format::template combine<L1, weighted>(
                grid, static_cast<const float *>(shared.x[b]),
                static_cast<const float *>(shared.weight[b]), found, &none, bytes));
        } else {
            range.report(Format::template combine<L1, weighted>(grid, found, &none, bytes));
        }
        range.report(Format::halves::any_infinite(bytes));
    });
    range.store(threads, shared.bytes);
}

template <typename Format, bool weighted>
__global__ void __launch_bounds__(SplitShape::threads)
    split_kernel(cuda::QuantizeArguments arguments) {
    quantize_split<Format, weighted>(ThreadBlock(), arguments);
}

template <typename Format, bool weighted>
cuda::QuantizeKernel split_entry(int type) {
    static_assert(sizeof(SplitShared<Format>) <= cuda::kSharedBytes);
    return {type,
            weighted,
            split_kernel<Format, weighted>,
            grid_tables<typename Format::Tables>,
            SplitShape::threads,
            SplitShared<Format>::blocks,
            sizeof(SplitShared<Format>),
            kSuper,
            Format::bytes,
            false};
}

}  // namespace
}  // namespace apex
