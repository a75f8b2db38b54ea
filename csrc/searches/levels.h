// Searches among fixed levels: IQ4. Every weight takes the nearest of 16 levels. ggml finds it by
// halving; because all points of equal distance are multiples of one half, and the comparison there
// is exact, counting the points that are not above finds the same (tests/kernels proves it for
// every float beside such a point).
#pragma once

#include "searches/scales.h"
#include "tables/iq4_levels.h"

namespace apex {
namespace {

template <typename L>
APEX_HOST_DEVICE inline typename L::I nearest_level(const Iq4Levels & levels, typename L::F x) {
    using I = typename L::I;
    I index{};
    APEX_UNROLL
    for (int bit = 8; bit > 0; bit /= 2) {
        const I tried = index + bit;
        index = L::select(x < lookup16(levels.midpoint, tried), index, tried);
    }
    return index;
}

// The first half of quantize_row_iq4_nl_impl: the scale of 32 weights.
template <typename L>
APEX_HOST_DEVICE inline typename L::F search_iq4(const Iq4Levels & levels, const typename L::F * x,
                                                 const typename L::F * weight) {
    using F = typename L::F;
    F amax;
    const F max = extreme<L, 32>(x, &amax);
    F sum_qx, sum_q2;
    const auto accumulate = [&](F inverse) {
        sum_qx = sum_q2 = L::all(0.f);
        APEX_UNROLL
        for (int i = 0; i < 32; ++i) {
            const F q = lookup16(levels.value, nearest_level<L>(levels, inverse * x[i]));
            const F wq = weight[i] * q;
            sum_qx += wq * x[i];
            sum_q2 += wq * q;
        }
    };
    accumulate(1.f / (-max / levels.value[0]));
    F d = L::select(sum_q2 > 0.f, sum_qx / sum_q2, L::all(0.f));
    F best = d * sum_qx;
    for (int step = -7; step <= 7; ++step) {
        accumulate((static_cast<float>(step) + levels.value[0]) / max);
        const auto better = (sum_q2 > 0.f) & (sum_qx * sum_qx > best * sum_q2);
        d = L::select(better, sum_qx / sum_q2, d);
        best = L::select(better, d * sum_qx, best);
    }
    return L::select(amax < kAllZero, L::all(0.f), d);
}

}  // namespace
}  // namespace apex
