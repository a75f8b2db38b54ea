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

template <typename Format, bool weighted>
__device__ void quantize_split(const Block & block, const cuda::QuantizeArguments & arguments) {
    using Book = Codebook<L1, 8, 2>;
    constexpr int parts = Format::parts;
    constexpr int part = Format::part;
    constexpr int groups = Format::groups;
    auto & shared = block.shared<SplitShared<Format>>();
    const Range<kSuper, Format::bytes, SplitShared<Format>::blocks> range(block, arguments);

    const Grid grid = codebook(block, arguments.tables);
    load_super_blocks<Format, weighted>(block, range, shared);
    block.each(8, [&](int i) {
        shared.values[i / 4][i % 4] = i % 4 == 3 ? 0.f : shifted_level<L1>(i / 4 == 1, i % 4);
    });
    block.each(range.count * kSuper / 8, [&](int eight) {
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
    const auto x_of = [&](int p) { return shared.x[p / parts] + p % parts * part; };
    const auto weight_of = [&](int p) { return shared.weight[p / parts] + p % parts * part; };
    block.each(range.count * kSuper, [&](int item) {
        const int p = item / part;
        const int i = item % part;
        const int rank = rank_of<part>(x_of(p), i);
        shared.sorted_value[p][rank] = x_of(p)[i];
        shared.sorted_weight[p][rank] = weight_of(p)[i];
        shared.sorted_place[p][rank] = static_cast<uint8_t>(i);
    });
    block.each(range.count * parts, [&](int p) {
        struct {
            const float * value;
            const float * weight;
            const uint8_t * place;
        } sorted{shared.sorted_value[p], shared.sorted_weight[p], shared.sorted_place[p]};
        auto sums = sums_of<Format>(shared, p);
        sums.fill(sorted);
        const float max = largest_magnitude<L1, part>(x_of(p));
        const SplitLevels<L1, Format::by_halves> split(sums.search(max), max, Format::smallest);
        for (int j = 0; j < part; ++j) {
            shared.level[p][sorted.place[j]] = static_cast<uint8_t>(split.level(j));
        }
        shared.found[p].scale = split.scale;
        shared.found[p].shift = split.shift;
        shared.is_empty[p] = split.is_empty;
    });
    snap_all<Book>(
        block, grid, shared.neighbours, range.count * parts * groups, [](int) { return true; },
        [&](int item, float * level) {
            const int p = item / groups;
            const int first = item % groups * 8;
            APEX_UNROLL
            for (int i = 0; i < 8; ++i) {
                level[i] = static_cast<float>(shared.level[p][first + i]);
            }
            const bool down = is_down<L1, Format::by_halves>(shared.found[p].shift, item % groups);
            return Point{x_of(p) + first, weight_of(p) + first, shared.found[p].scale,
                         shared.values[down ? 1 : 0]};
        },
        [&](int item, int32_t code, bool on_grid, bool is_far) {
            shared.found[item / groups].code[item % groups] = code;
            shared.on_grid[item / groups][item % groups] = on_grid ? ~0 : 0;
            range.report(is_far && !shared.is_empty[item / groups]);
        });
    block.each(range.count * parts, [&](int p) {
        int32_t all_on = ~0;
        APEX_UNROLL
        for (int k = 0; k < groups; ++k) {
            all_on &= shared.on_grid[p][k];
        }
        auto & found = shared.found[p];
        rescale<L1, groups, Format::by_halves>(found, all_on, x_of(p), weight_of(p));
        range.report(found.scale != found.scale && !shared.is_empty[p]);
        finish_split<L1, groups>(shared.is_empty[p], found);
    });
    block.each(range.count, [&](int b) {
        uint8_t * bytes = shared.bytes + b * Format::bytes;
        typename Format::template Scales<L1> none;
        range.report(Format::template combine<L1, weighted>(
            grid, static_cast<const float *>(shared.x[b]),
            static_cast<const float *>(shared.weight[b]), &shared.found[b * parts], &none, bytes));
        range.report(Format::halves::any_infinite(bytes));
    });
    range.store(block, shared.bytes);
}

template <typename Format, bool weighted>
__global__ void __launch_bounds__(SplitShape::threads)
    split_kernel(cuda::QuantizeArguments arguments) {
    quantize_split<Format, weighted>(Block(), arguments);
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
