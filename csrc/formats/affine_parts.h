// What Q2_K, Q4_K and Q5_K have in common: every part has a scale and a minimum, which are integers
// under the two scales of the super-block.
#pragma once

#include "formats/super_blocks.h"
#include "searches/scales.h"

namespace apex {
namespace {

// What Q2_K, Q4_K and Q5_K find of a part, and make of all of them.
template <typename L>
struct AffinePart {
    Affine<L> affine;
    typename L::F sum;  // of the weights
};

template <typename L, int parts>
struct AffineScales {
    typename L::F scale[parts];
    typename L::F min[parts];
};

// The second pass over a part: with its final scale d and min dm, or, where d is zero, with what
// the search had left.
template <typename L, int count>
APEX_HOST_DEVICE inline void requantize(const typename L::F * x, typename L::F d, typename L::F dm,
                                        const Affine<L> & found, int limit, typename L::I * l) {
    const auto is_zero = d == 0.f;
    const bool some_zero = any(is_zero);
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        auto value = L::nearest((x[i] + dm) / d, 0.f, static_cast<float>(limit));
        if (some_zero) {
            value = L::select(is_zero, found.stored(x[i], limit), value);
        }
        l[i] = to_int(value);
    }
}

// Scales and mins by their maximum, as without importance.
template <typename L, int count>
APEX_HOST_DEVICE inline typename L::F round_scales(const typename L::F * x, int limit,
                                                   typename L::I * integers) {
    auto max = L::all(0.f);
    APEX_UNROLL
    for (int j = 0; j < count; ++j) {
        max = L::max(x[j], max);
    }
    const auto inverse = L::select(max > 0.f, static_cast<float>(limit) / max, L::all(0.f));
    APEX_UNROLL
    for (int j = 0; j < count; ++j) {
        integers[j] = to_int(L::nearest(inverse * x[j]));
    }
    return max / static_cast<float>(limit);
}

// Scales and mins of all parts as integers 0 .. limit; d and dmin are rounded to binary16.
template <typename L>
struct RoundedPair {
    typename L::I half_d, half_dmin;
    typename L::F d, dmin;
};

template <typename L, int parts, bool weighted>
APEX_HOST_DEVICE inline RoundedPair<L> round_affine(const AffinePart<L> * found, int limit,
                                                    typename L::I * ls, typename L::I * lm) {
    typename L::F scales[parts], mins[parts], sums[parts], d, dmin;
    APEX_UNROLL
    for (int j = 0; j < parts; ++j) {
        scales[j] = found[j].affine.scale;
        mins[j] = found[j].affine.min;
        sums[j] = found[j].sum;
    }
    if constexpr (weighted) {
        d = quantize_scales<L, parts>(scales, sums, limit, ls);
        dmin = quantize_scales<L, parts>(mins, sums, limit, lm);
    } else {
        d = round_scales<L, parts>(scales, limit, ls);
        dmin = round_scales<L, parts>(mins, limit, lm);
    }
    const auto half_d = L::to_half(d);
    const auto half_dmin = L::to_half(dmin);
    return {half_d, half_dmin, L::from_half(half_d), L::from_half(half_dmin)};
}

}  // namespace
}  // namespace apex
