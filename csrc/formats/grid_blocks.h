// What IQ2 and IQ3 have in common: magnitudes on a codebook, signs beside. Only the choice among
// the neighbours of a point runs lane by lane, with the neighbours side by side
// (searches/nearest.h). Where a sign has 7 bits, the eighth is their parity; a weight that would
// break it is flipped.
#pragma once

#include "formats/super_blocks.h"
#include "searches/grids.h"
#include "tables/upstream.h"

namespace apex {
namespace {

// The lower bits of the scales, and d: ggml's nearest_int(0.5f * (scale / d - 1)) with d the
// largest scale over 31. Lanes without any scale get zeros.
template <typename L, int count>
APEX_HOST_DEVICE inline typename L::I pack_part_scales(const typename L::F * scales, float fudge,
                                                       typename L::I * integers,
                                                       typename L::M * is_empty) {
    using F = typename L::F;
    using I = typename L::I;
    F max = L::all(0.f);
    APEX_UNROLL
    for (int j = 0; j < count; ++j) {
        max = L::max(max, scales[j]);
    }
    *is_empty = max == 0.f;
    const F d = max / 31.f;
    const F inverse = 1.f / d;
    APEX_UNROLL
    for (int j = 0; j < count; ++j) {
        const F l = L::nearest(0.5f * (inverse * scales[j] - 1.f), 0.f, 15.f);
        integers[j] = L::select(*is_empty, I{}, to_int(l));
    }
    return L::select(*is_empty, I{}, L::to_half(d * fudge));
}

template <typename L, int count, typename Out>
APEX_HOST_DEVICE inline void clear(typename L::M is_empty, Out bytes) {
    for (int i = 0; any(is_empty) && i < count; ++i) {
        bytes[i] = L::select(is_empty, typename L::I{}, bytes[i]);
    }
}

// The four bytes of a 32-bit integer, lowest first.
template <typename I, typename Out>
APEX_HOST_DEVICE inline void put_word(I word, Out bytes) {
    for (int i = 0; i < 4; ++i) {
        bytes[i] = word >> (8 * i) & 255;
    }
}

// Four times seven signs and four bits of scale.
template <typename Part, typename I>
APEX_HOST_DEVICE inline I signs_and_scale(const Part & part, I scale) {
    return part.signs[0] | part.signs[1] << 7 | part.signs[2] << 14 | part.signs[3] << 21 |
           scale << 28;
}

// importance * sqrt(sigma2 + x^2), or without importance a part of sigma2 + x^2.
template <typename L, int count, bool weighted>
APEX_HOST_DEVICE inline void grid_weights(const typename L::F * x, typename L::F sigma2,
                                          [[maybe_unused]] float share, typename L::F * weight) {
    if constexpr (weighted) {
        importance_weights<L, count>(x, sigma2, weight);
    } else {
        APEX_UNROLL
        for (int i = 0; i < count; ++i) {
            weight[i] = share * sigma2 + x[i] * x[i];
        }
    }
}

// What the five have in common. `share` is that of grid_weights, `twice` whether sigma2 is.
template <typename Format, int bytes_, int parts_, int coordinates, int bits, bool twice>
struct GridFormat : SuperFormat {
    static constexpr int bytes = bytes_;
    static constexpr int parts = parts_;
    static constexpr int part = kSuper / parts;
    static constexpr int groups = part / coordinates;
    static constexpr bool has_levels = false;
    using halves = Halves<0>;

    template <typename L>
    using Book = Codebook<L, coordinates, bits>;
    template <typename L>
    using Found = GridPart<L, groups>;

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        const auto squares = sum_of_squares<L, kSuper>(x);
        return (twice ? 2.f * squares : squares) / 256.f;
    }

    template <typename L, bool weighted>
    static bool search(const Grid & grid, const typename L::F * x, typename L::F * weight,
                       typename L::F sigma2, Found<L> * found, typename L::I *) {
        grid_weights<L, part, weighted>(x, sigma2, Format::share, weight);
        constexpr GridRules rules = Format::rules();
        return GridSearch<L, Book<L>, part>(grid, rules, x, weight).run(found);
    }
};

// Four or eight magnitudes of a grid, a byte each, times the scale, under the signs that are set.
template <int count, typename Point>
APEX_HOST_DEVICE inline void signed_point(Point point, int32_t signs, float scale, float * out) {
    for (int i = 0; i < count; ++i) {
        const float magnitude = scale * to_float(static_cast<int32_t>(point >> 8 * i & 255));
        out[i] = signs >> i & 1 ? -magnitude : magnitude;
    }
}

// The `at`th seven signs of a word, and the eighth: with it, the number of those set is even.
APEX_HOST_DEVICE inline int32_t seven_signs(uint32_t word, int at) {
    const auto signs = static_cast<int32_t>(word >> 7 * at & 127);
    const int32_t odd = 0x6996 >> ((signs ^ signs >> 4) & 15) & 1;
    return signs | odd << 7;
}

}  // namespace
}  // namespace apex
