// Formats with levels: a thread searches and rounds a part, a thread combines and packs a block.
//
// The weights lie in shared memory, a part after the other with a word between them, so that the
// threads, which go through their parts side by side, meet no bank twice. During the search a
// thread has its part and the part's weights in registers: the candidates for a scale wait for each
// other (each starts from the best minimum so far), so they cannot go side by side, and there are
// parts enough.
#pragma once

#include "cuda/weights.h"

namespace apex {
namespace {

template <typename Format>
struct LevelsShape {
    static constexpr int part = Format::weights / Format::parts;
    static constexpr int threads = part == 32 ? 128 : 256;
    static constexpr int blocks = threads / Format::parts;
};

template <typename Format>
struct LevelsShared {
    using Shape = LevelsShape<Format>;
    float x[Shape::threads][Shape::part + 1];
    typename Format::Tables tables;
    float sigma2[Shape::blocks];
    typename Format::template Found<L1> found[Shape::threads];
    typename Format::template Scales<L1> scales[Shape::blocks];
    alignas(4) uint8_t levels[Shape::blocks][Format::weights + 4];
    alignas(16) uint8_t bytes[Shape::blocks * Format::bytes];
};

// The weights of one block as if there were nothing between the parts.
template <int part>
struct Unpadded {
    const float (*parts)[part + 1];
    __device__ float operator[](int i) const { return parts[i / part][i % part]; }
};

// The scale of every part, and the levels that a search leaves.
template <typename Format, bool weighted, typename Range>
__device__ void search_parts(const ThreadBlock & threads, const Range & range,
                             LevelsShared<Format> & shared) {
    constexpr int part = LevelsShape<Format>::part;
    constexpr int parts = Format::parts;
    threads.each(range.count * parts, [&](int p) {
        float x[part], weight[part];
        int32_t levels[part];
        APEX_UNROLL
        for (int i = 0; i < part; ++i) {
            x[i] = shared.x[p][i];
        }
        if constexpr (weighted) {
            const float * importance = range.importance(p / parts) + p % parts * part;
            APEX_UNROLL
            for (int i = 0; i < part; i += 4) {
                load_floats(importance + i, 4, weight + i);
            }
        }
        range.report(Format::template search<L1, weighted>(
            shared.tables, x, weight, shared.sigma2[p / parts], &shared.found[p], levels));
        if constexpr (Format::leaves_levels) {
            APEX_UNROLL
            for (int i = 0; i < part; ++i) {
                shared.levels[p / parts][p % parts * part + i] = static_cast<uint8_t>(levels[i]);
            }
        }
    });
}

// The levels of every part under its final scale.
template <typename Format, bool weighted, typename Range>
__device__ void round_parts(const ThreadBlock & threads, const Range & range,
                            LevelsShared<Format> & shared) {
    constexpr int part = LevelsShape<Format>::part;
    constexpr int parts = Format::parts;
    threads.each(range.count * parts, [&](int p) {
        float x[part];
        int32_t levels[part];
        uint8_t * kept = shared.levels[p / parts] + p % parts * part;
        APEX_UNROLL
        for (int i = 0; i < part; ++i) {
            x[i] = shared.x[p][i];
            levels[i] = Format::leaves_levels ? kept[i] : 0;
        }
        Format::template round<L1, weighted>(shared.tables, x, shared.found[p],
                                             shared.scales[p / parts], p % parts, levels);
        APEX_UNROLL
        for (int i = 0; i < part; i += 4) {
            *reinterpret_cast<uint32_t *>(kept + i) =
                static_cast<uint32_t>(levels[i] & 255) |
                static_cast<uint32_t>(levels[i + 1] & 255) << 8 |
                static_cast<uint32_t>(levels[i + 2] & 255) << 16 |
                static_cast<uint32_t>(levels[i + 3] & 255) << 24;
        }
    });
}

template <typename Format, bool weighted>
__device__ void quantize_levels(const ThreadBlock & threads,
                                const cuda::QuantizeArguments & arguments) {
    using Shape = LevelsShape<Format>;
    constexpr int part = Shape::part;
    constexpr int parts = Format::parts;
    static_assert(Format::template together<L1, weighted>() == 1);
    static_assert(!Format::keeps_weights);
    auto & shared = threads.shared<LevelsShared<Format>>();
    const Range<Format::weights, Format::bytes, Shape::blocks> range(threads, arguments);

    load_tables(threads, arguments.tables, &shared.tables);
    range.load(threads, [&](int i, const float * values) {
        APEX_UNROLL
        for (int k = 0; k < 8; ++k) {
            shared.x[i / part][i % part + k] = values[k];
        }
    });
    threads.each(range.count, [&](int b) {
        if constexpr (Format::by_row && weighted) {
            shared.sigma2[b] = arguments.row_mean_squares[range.row(b)];
        } else {
            shared.sigma2[b] =
                Format::template sigma2<L1, weighted>(Unpadded<part>{shared.x + b * parts});
        }
    });
    search_parts<Format, weighted>(threads, range, shared);
    threads.each(range.count, [&](int b) {
        uint8_t * bytes = shared.bytes + b * Format::bytes;
        range.report(Format::template combine<L1, weighted>(shared.tables, &shared.found[b * parts],
                                                            &shared.scales[b], bytes));
        range.report(Format::halves::any_infinite(bytes));
    });
    round_parts<Format, weighted>(threads, range, shared);
    threads.each(range.count, [&](int b) {
        Format::pack(static_cast<const uint8_t *>(shared.levels[b]),
                     shared.bytes + b * Format::bytes);
    });
    range.store(threads, shared.bytes);
}

template <typename Format, bool weighted>
__global__ void __launch_bounds__(LevelsShape<Format>::threads)
    levels_kernel(cuda::QuantizeArguments arguments) {
    quantize_levels<Format, weighted>(ThreadBlock(), arguments);
}

template <typename Tables>
std::vector<unsigned char> plain_tables(cuda::TableMemory &) {
    const Tables & tables = Tables::get();
    const auto * bytes = reinterpret_cast<const unsigned char *>(&tables);
    return {bytes, bytes + sizeof(tables)};
}

template <typename Format, bool weighted>
cuda::QuantizeKernel levels_entry(int type) {
    static_assert(sizeof(LevelsShared<Format>) <= cuda::kSharedBytes);
    return {type,
            weighted,
            levels_kernel<Format, weighted>,
            plain_tables<typename Format::Tables>,
            LevelsShape<Format>::threads,
            LevelsShape<Format>::blocks,
            sizeof(LevelsShared<Format>),
            Format::weights,
            Format::bytes,
            Format::by_row && weighted};
}

template <typename Format>
void add_levels(std::vector<cuda::QuantizeKernel> & kernels, int type) {
    kernels.push_back(levels_entry<Format, false>(type));
    kernels.push_back(levels_entry<Format, true>(type));
}

}  // namespace
}  // namespace apex
