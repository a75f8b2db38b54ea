// Searches for the scale of one part, and the quantization of several scales to integers.
//
// Each lane runs the loop of its ggml function over its own part: every sum has its elements
// in the reference's order, every product its factors in the reference's association. Branches
// become selects; a lane whose loop has ended goes on computing what is no longer taken.
#pragma once

#include "lane/lanes.h"

namespace apex {
namespace {

constexpr float kAllZero = 1e-15f;  // ggml's GROUP_MAX_EPS: a smaller maximum counts as zero

// weight = scale * (l - offset), and how l was chosen.
template <typename L>
struct Symmetric {
    typename L::F scale;
    typename L::F inverse;  // l = nearest(inverse * weight), within -limit .. limit - 1
    typename L::M is_zero;  // every l is 0, without an offset

    // What ggml's function leaves in L: l + limit, or 0.
    APEX_HOST_DEVICE typename L::F stored(typename L::F x, int limit) const {
        const auto l =
            L::nearest(inverse * x, static_cast<float>(-limit), static_cast<float>(limit - 1)) +
            static_cast<float>(limit);
        return L::select(is_zero, L::all(0.f), l);
    }
};

// The element of largest magnitude, with its sign; the first of equals.
template <typename L, int count>
APEX_HOST_DEVICE inline typename L::F extreme(const typename L::F * x, typename L::F * magnitude) {
    typename L::F max = L::all(0.f);
    typename L::F amax = L::all(0.f);
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        const auto ax = L::abs(x[i]);
        const auto larger = ax > amax;
        amax = L::select(larger, ax, amax);
        max = L::select(larger, x[i], max);
    }
    *magnitude = amax;
    return max;
}

// ggml: make_qx_quants with rmse_type 1. Not weighted: by the squares of x.
template <typename L, int count, bool weighted>
APEX_HOST_DEVICE inline Symmetric<L> search_symmetric(const typename L::F * x,
                                                      [[maybe_unused]] const typename L::F * weight,
                                                      int limit) {
    using F = typename L::F;
    const auto low = static_cast<float>(-limit);
    const auto high = static_cast<float>(limit - 1);
    F amax;
    const F max = extreme<L, count>(x, &amax);
    const auto is_zero = amax < kAllZero;

    F inverse = L::all(low) / max;
    F sum_lx = L::all(0.f);
    F sum_l2 = L::all(0.f);
    const auto accumulate = [&](F candidate) {
        sum_lx = sum_l2 = L::all(0.f);
        APEX_UNROLL
        for (int i = 0; i < count; ++i) {
            const F l = L::nearest(candidate * x[i], low, high);
            const F w = weighted ? weight[i] : x[i] * x[i];
            sum_lx += w * x[i] * l;
            sum_l2 += w * l * l;
        }
    };
    accumulate(inverse);
    F scale = L::select(sum_l2 != 0.f, sum_lx / sum_l2, L::all(0.f));
    F best = scale * sum_lx;
    for (int step = -9; step <= 9; ++step) {
        if (step == 0) {
            continue;
        }
        const float numerator = -(static_cast<float>(limit) + 0.1f * static_cast<float>(step));
        const F candidate = L::all(numerator) / max;
        accumulate(candidate);
        const auto better = (sum_l2 > 0.f) & (sum_lx * sum_lx > best * sum_l2);
        inverse = L::select(better, candidate, inverse);
        scale = L::select(better, sum_lx / sum_l2, scale);
        best = L::select(better, scale * sum_lx, best);
    }
    return {L::select(is_zero, L::all(0.f), scale), inverse, is_zero};
}

// weight = scale * l - min, and how l was chosen.
template <typename L>
struct Affine {
    typename L::F scale;
    typename L::F min;      // zero or positive: the negated smallest weight
    typename L::F inverse;  // l = nearest(inverse * (weight - base)), within 0 .. limit
    typename L::F base;

    APEX_HOST_DEVICE typename L::F stored(typename L::F x, int limit) const {
        return L::nearest(inverse * (x - base), 0.f, static_cast<float>(limit));
    }
};

struct AffineSteps {
    float first;
    float delta;
    int count;      // steps 0 .. count
    bool absolute;  // errors are absolute values instead of squares
};

// ggml: make_qkx2_quants and make_qkx3_quants, which differ in nothing that is used.
template <typename L, int count>
APEX_HOST_DEVICE inline Affine<L> search_affine(const typename L::F * x,
                                                const typename L::F * weight, int limit,
                                                const AffineSteps & steps) {
    using F = typename L::F;
    const auto top = static_cast<float>(limit);
    F min = x[0];
    F max = x[0];
    F sum_w = weight[0];
    F sum_x = sum_w * x[0];
    APEX_UNROLL
    for (int i = 1; i < count; ++i) {
        min = L::min(x[i], min);
        max = L::max(x[i], max);
        sum_w += weight[i];
        sum_x += weight[i] * x[i];
    }
    min = L::select(min > 0.f, L::all(0.f), min);
    const auto is_flat = max <= min;
    const F flat_min = min;

    const auto error_of = [&](F diff) { return steps.absolute ? L::abs(diff) : diff * diff; };
    F inverse = L::all(top) / (max - min);
    F base = min;
    F scale = 1.f / inverse;
    F best = L::all(0.f);
    F l[count];
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        l[i] = L::nearest(inverse * (x[i] - min), 0.f, top);
        best += weight[i] * error_of(scale * l[i] + min - x[i]);
    }
    for (int step = 0; step <= steps.count; ++step) {
        const float numerator = steps.first + steps.delta * static_cast<float>(step) + top;
        // `min` is the best so far, not the smallest weight: so it is in the reference.
        const F candidate = L::all(numerator) / (max - min);
        F sum_l = L::all(0.f);
        F sum_l2 = L::all(0.f);
        F sum_xl = L::all(0.f);
        APEX_UNROLL
        for (int i = 0; i < count; ++i) {
            l[i] = L::nearest(candidate * (x[i] - min), 0.f, top);
            const F wl = weight[i] * l[i];
            sum_l += wl;
            sum_l2 += wl * l[i];
            sum_xl += wl * x[i];
        }
        const F determinant = sum_w * sum_l2 - sum_l * sum_l;
        F this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        F this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        const auto positive = this_min > 0.f;
        this_min = L::select(positive, L::all(0.f), this_min);
        this_scale = L::select(positive, sum_xl / sum_l2, this_scale);
        F error = L::all(0.f);
        APEX_UNROLL
        for (int i = 0; i < count; ++i) {
            error += weight[i] * error_of(this_scale * l[i] + this_min - x[i]);
        }
        const auto better = (determinant > 0.f) & (error < best);
        best = L::select(better, error, best);
        inverse = L::select(better, candidate, inverse);
        base = L::select(better, min, base);
        scale = L::select(better, this_scale, scale);
        min = L::select(better, this_min, min);
    }
    const F zero = L::all(0.f);
    return {L::select(is_flat, zero, scale), -L::select(is_flat, flat_min, min),
            L::select(is_flat, zero, inverse), L::select(is_flat, zero, base)};
}

// ggml: make_qp_quants. Writes the integers, 0 .. 255, and returns the scale of the scales.
template <typename L, int count>
APEX_HOST_DEVICE inline typename L::F quantize_scales(const typename L::F * x,
                                                      const typename L::F * weight, int limit,
                                                      typename L::I * integers) {
    using F = typename L::F;
    using I = typename L::I;
    const auto top = static_cast<float>(limit);
    // The reference keeps them in bytes: a negative one, which only a negative scale gives, wraps.
    const auto byte = [](F l) { return to_float(to_int(l) & 255); };

    F max = L::all(0.f);
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        max = L::max(max, x[i]);
    }
    const auto is_zero = max < kAllZero;
    F inverse = L::all(top) / max;
    const F first_scale = 1.f / inverse;
    F best = L::all(0.f);
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        const F diff = x[i] - first_scale * byte(L::nearest(inverse * x[i]));
        best += weight[i] * diff * diff;
    }
    for (int step = -4; step <= 4; ++step) {
        if (step == 0) {
            continue;
        }
        const F candidate = L::all(0.1f * static_cast<float>(step) + top) / max;
        const F scale = 1.f / candidate;
        F error = L::all(0.f);
        APEX_UNROLL
        for (int i = 0; i < count; ++i) {
            const F diff = x[i] - scale * L::min(L::all(top), L::nearest(candidate * x[i]));
            error += weight[i] * diff * diff;
        }
        const auto better = error < best;
        best = L::select(better, error, best);
        inverse = L::select(better, candidate, inverse);
    }
    F sum_lx = L::all(0.f);
    F sum_l2 = L::all(0.f);
    F l[count];
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        const F rounded = L::min(L::all(top), L::nearest(inverse * x[i]));
        l[i] = byte(rounded);
        sum_lx += weight[i] * x[i] * rounded;
        sum_l2 += weight[i] * rounded * rounded;
    }
    for (int round = 0; round < 5; ++round) {
        bool changed = false;  // a lane without a change has none in the next round either
        APEX_UNROLL
        for (int i = 0; i < count; ++i) {
            const F wx = weight[i] * x[i];
            F slx = sum_lx - wx * l[i];
            F sl2 = sum_l2 - weight[i] * l[i] * l[i];
            const auto sound = (slx > 0.f) & (sl2 > 0.f);
            const F next = L::min(L::all(top), L::nearest(x[i] * sl2 / slx));
            const auto differs = sound & (next != l[i]);
            if (!any(differs)) {
                continue;
            }
            slx += wx * next;
            sl2 += weight[i] * next * next;
            const auto better = differs & (slx * slx * sum_l2 > sum_lx * sum_lx * sl2);
            l[i] = L::select(better, byte(next), l[i]);
            sum_lx = L::select(better, slx, sum_lx);
            sum_l2 = L::select(better, sl2, sum_l2);
            changed |= any(better);
        }
        if (!changed) {
            break;
        }
    }
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        integers[i] = L::select(is_zero, I{}, to_int(l[i]));
    }
    const F scale = L::select(sum_l2 > 0.f, sum_lx / sum_l2, L::all(0.f));
    return L::select(is_zero, L::all(0.f), scale);
}

// ggml: make_q3_quants with do_rmse: coordinate descent on the integers. Works on `batch`
// parts that follow each other, because each step waits for the one before. Writes l + limit
// and the scales.
template <typename L, int count, int batch>
APEX_HOST_DEVICE inline void search_descent(const typename L::F * x, int limit, typename L::F * l,
                                            typename L::F * scales) {
    using F = typename L::F;
    const auto low = static_cast<float>(-limit);
    const auto high = static_cast<float>(limit - 1);
    typename L::M is_zero[batch];
    F sum_lx[batch], sum_l2[batch];
    for (int b = 0; b < batch; ++b) {
        F amax;
        const F inverse = L::all(low) / extreme<L, count>(x + b * count, &amax);
        is_zero[b] = amax < kAllZero;
        sum_lx[b] = sum_l2[b] = L::all(0.f);
        APEX_UNROLL
        for (int i = b * count; i < (b + 1) * count; ++i) {
            l[i] = L::nearest(inverse * x[i], low, high);
            const F w = x[i] * x[i];
            sum_lx[b] += w * x[i] * l[i];
            sum_l2[b] += w * l[i] * l[i];
        }
    }
    // A part without a change in any lane has none in the next round either.
    bool active[batch];
    for (bool & flag : active) {
        flag = true;
    }
    for (int round = 0; round < 5; ++round) {
        typename L::M changed[batch];
        for (auto & mask : changed) {
            mask = typename L::M{};
        }
        APEX_UNROLL
        for (int i = 0; i < count; ++i) {
            for (int b = 0; b < batch; ++b) {
                if (!active[b]) {
                    continue;
                }
                const F value = x[b * count + i];
                F & at = l[b * count + i];
                const F w = value * value;
                const F wx = w * value;
                F slx = sum_lx[b] - wx * at;
                F sl2 = sum_l2[b] - w * at * at;
                const auto sound = slx > 0.f;
                const F next = L::nearest(value * sl2 / slx, low, high);
                const auto differs = sound & (next != at);
                if (!any(differs)) {
                    continue;
                }
                slx += wx * next;
                sl2 += w * next * next;
                const auto better =
                    differs & (sl2 > 0.f) & (slx * slx * sum_l2[b] > sum_lx[b] * sum_lx[b] * sl2);
                at = L::select(better, next, at);
                sum_lx[b] = L::select(better, slx, sum_lx[b]);
                sum_l2[b] = L::select(better, sl2, sum_l2[b]);
                changed[b] = changed[b] | better;
            }
        }
        for (int b = 0; b < batch; ++b) {
            active[b] = active[b] && any(changed[b]);
        }
    }
    for (int b = 0; b < batch; ++b) {
        APEX_UNROLL
        for (int i = b * count; i < (b + 1) * count; ++i) {
            l[i] = L::select(is_zero[b], L::all(0.f), l[i] + static_cast<float>(limit));
        }
        const F scale = L::select(sum_l2[b] > 0.f, sum_lx[b] / sum_l2[b], L::all(0.f));
        scales[b] = L::select(is_zero[b], L::all(0.f), scale);
    }
}

}  // namespace
}  // namespace apex
