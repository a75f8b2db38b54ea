// The search of IQ1 for one part: its weights are sorted, and every pair of boundaries between the
// three levels is tried with prefix sums.
#pragma once

#include <type_traits>

#include "lane/transpose.h"
#include "searches/snap.h"
#include "searches/sort.h"
#include "tables/upstream.h"

namespace apex {
namespace {

constexpr float kShift = IQ1S_DELTA;
static_assert(IQ1S_DELTA == IQ1M_DELTA, "one shift for both formats");

// The levels -1, 0, 1 shifted up or down.
APEX_HOST_DEVICE constexpr float shifted_up(int level) {
    return static_cast<float>(level - 1) + kShift;
}
APEX_HOST_DEVICE constexpr float shifted_down(int level) {
    return static_cast<float>(level - 1) - kShift;
}

// The best pair of boundaries: sorted weights below `first` take level 0, below `second` level 1.
template <typename L>
struct Split {
    typename L::F scale;
    typename L::F score;
    typename L::I first;
    typename L::I second;
    typename L::I shift;  // which of the shifts: see the two searches

    APEX_HOST_DEVICE explicit Split(typename L::F initial_scale)
        : scale(initial_scale),
          score(L::all(-kFarthest)),
          first(L::all(-1)),
          second(L::all(-1)),
          shift(L::all(-1)) {}

    APEX_HOST_DEVICE void offer(typename L::F sum_qx, typename L::F sum_q2, int i1, int i2,
                                int which) {
        const auto better = (sum_q2 > 0.f) & (sum_qx * sum_qx > score * sum_q2);
        if (any(better)) {
            scale = L::select(better, sum_qx / sum_q2, scale);
            score = L::select(better, scale * sum_qx, score);
            first = L::select(better, L::all(i1), first);
            second = L::select(better, L::all(i2), second);
            shift = L::select(better, L::all(which), shift);
        }
    }
};

// The sums that the search needs per boundary, in arrays that the caller chooses: on a GPU they lie
// in shared memory. `Array` is indexed 0 .. part.
//
// One shift for the whole part, 0 up or 1 down.
template <typename L, int part, typename Array>
struct WholeSums {
    static constexpr int arrays = 6;
    Array x, w;                    // sums of weight * value and of weights below a boundary
    Array above_x[2], above_w[2];  // what the third level adds, for both shifts

    template <typename Source>
    APEX_HOST_DEVICE void fill(const Source & s) {
        using F = typename L::F;
        x[0] = w[0] = L::all(0.f);
        for (int j = 0; j < part; ++j) {
            x[j + 1] = x[j] + s.weight[j] * s.value[j];
            w[j + 1] = w[j] + s.weight[j];
        }
        for (int i = 0; i <= part; ++i) {
            const F sum_x = x[part] - x[i];
            const F sum_w = w[part] - w[i];
            above_x[0][i] = sum_x * shifted_up(2);
            above_x[1][i] = sum_x * shifted_down(2);
            above_w[0][i] = sum_w * shifted_up(2) * shifted_up(2);
            above_w[1][i] = sum_w * shifted_down(2) * shifted_down(2);
        }
    }

    APEX_HOST_DEVICE Split<L> search(typename L::F max) const {
        using F = typename L::F;
        Split<L> best(max);
        for (int i1 = 0; i1 <= part; ++i1) {
            const F x1 = x[i1];
            const F w1 = w[i1];
            const F below_x[2] = {x1 * shifted_up(0), x1 * shifted_down(0)};
            const F below_w[2] = {w1 * shifted_up(0) * shifted_up(0),
                                  w1 * shifted_down(0) * shifted_down(0)};
            for (int i2 = i1; i2 <= part; ++i2) {
                const F sum_x = x[i2] - x1;
                const F sum_w = w[i2] - w1;
                best.offer(below_x[0] + sum_x * shifted_up(1) + above_x[0][i2],
                           below_w[0] + sum_w * shifted_up(1) * shifted_up(1) + above_w[0][i2], i1,
                           i2, 0);
                best.offer(below_x[1] + sum_x * shifted_down(1) + above_x[1][i2],
                           below_w[1] + sum_w * shifted_down(1) * shifted_down(1) + above_w[1][i2],
                           i1, i2, 1);
            }
        }
        return best;
    }
};

// A shift per half of the part: bit 1 of `shift` for the first half, bit 0 for the second; set is
// down. The levels being one apart, a sum collapses to total * level 2 minus two prefix sums.
template <typename L, int part, typename Array>
struct HalfSums {
    static constexpr int arrays = 8;
    Array x[2], w[2];    // of each half, as above
    Array second[2][2];  // what the second boundary adds, by half and shift

    template <typename Source>
    APEX_HOST_DEVICE void fill(const Source & s) {
        constexpr float second_up = shifted_up(1) * shifted_up(1) - shifted_up(2) * shifted_up(2);
        constexpr float second_down =
            shifted_down(1) * shifted_down(1) - shifted_down(2) * shifted_down(2);
        APEX_UNROLL
        for (int h = 0; h < 2; ++h) {
            x[h][0] = w[h][0] = L::all(0.f);
            for (int j = 0; j < part; ++j) {
                const auto mine = h == 0 ? s.place[j] < part / 2 : s.place[j] >= part / 2;
                x[h][j + 1] = L::select(mine, x[h][j] + s.weight[j] * s.value[j], x[h][j]);
                w[h][j + 1] = L::select(mine, w[h][j] + s.weight[j], w[h][j]);
            }
            for (int i = 0; i <= part; ++i) {
                second[h][0][i] = w[h][i] * second_up;
                second[h][1][i] = w[h][i] * second_down;
            }
        }
    }

    APEX_HOST_DEVICE Split<L> search(typename L::F max) const {
        using F = typename L::F;
        constexpr float first_up = shifted_up(0) * shifted_up(0) - shifted_up(1) * shifted_up(1);
        constexpr float first_down =
            shifted_down(0) * shifted_down(0) - shifted_down(1) * shifted_down(1);
        Split<L> best(max);
        for (int i1 = 0; i1 <= part; ++i1) {
            F first[2][2], total[2][2], x1[2];
            APEX_UNROLL
            for (int h = 0; h < 2; ++h) {
                x1[h] = x[h][i1];
                total[h][0] = x[h][part] * shifted_up(2);
                total[h][1] = x[h][part] * shifted_down(2);
                first[h][0] = w[h][part] * shifted_up(2) * shifted_up(2) + w[h][i1] * first_up;
                first[h][1] =
                    w[h][part] * shifted_down(2) * shifted_down(2) + w[h][i1] * first_down;
            }
            for (int i2 = i1; i2 <= part; ++i2) {
                F qx[2][2], q2[2][2];
                APEX_UNROLL
                for (int h = 0; h < 2; ++h) {
                    const F sx = x1[h] + x[h][i2];
                    APEX_UNROLL
                    for (int shift = 0; shift < 2; ++shift) {
                        qx[h][shift] = total[h][shift] - sx;
                        q2[h][shift] = first[h][shift] + second[h][shift][i2];
                    }
                }
                APEX_UNROLL
                for (int k = 0; k < 4; ++k) {
                    best.offer(qx[0][k / 2] + qx[1][k % 2], q2[0][k / 2] + q2[1][k % 2], i1, i2, k);
                }
            }
        }
        return best;
    }
};

// One part after its search. Where nothing was found: scale 0, shift 0, codes 0.
template <typename L, int groups>
struct SplitPart {
    typename L::F scale;
    typename L::I shift;
    typename L::I code[groups];
};

template <typename L, bool halves>
APEX_HOST_DEVICE inline typename L::M is_down(typename L::I shift, int group) {
    return (halves && group == 0 ? shift >> 1 : shift & 1) == 1;
}

// What a level stands for.
template <typename L>
APEX_HOST_DEVICE inline typename L::F shifted_level(typename L::M down, int level) {
    return L::select(down, L::all(shifted_down(level)), L::all(shifted_up(level)));
}
template <typename L>
APEX_HOST_DEVICE inline typename L::F value_of(typename L::M down, typename L::I level) {
    return L::select(level == 0, shifted_level<L>(down, 0),
                     L::select(level == 1, shifted_level<L>(down, 1), shifted_level<L>(down, 2)));
}

// What the boundaries say: scale, shift, and the level of the weight at each sorted place. Where
// the scale is negative, everything is mirrored.
template <typename L, bool halves>
struct SplitLevels {
    typename L::M is_empty;
    typename L::M negative;
    typename L::F scale;
    typename L::I shift;
    typename L::I first, second;

    APEX_HOST_DEVICE SplitLevels(const Split<L> & best, typename L::F max, float smallest)
        : is_empty((max < smallest) | (best.first < 0)),
          negative(best.scale < 0.f),
          scale(L::select(negative, -best.scale, best.scale)),
          shift(L::select(negative, (halves ? 3 : 1) - best.shift, best.shift)),
          first(best.first),
          second(best.second) {}

    APEX_HOST_DEVICE typename L::I level(int place) const {
        using I = typename L::I;
        const I l = L::select(place < first, I{}, L::select(place < second, L::all(1), L::all(2)));
        return L::select(negative, 2 - l, l);
    }
};

// Sums of weight * q * x and of weight * q^2 over a part's codes; the scale that they give.
template <typename L, int groups, bool halves>
APEX_HOST_DEVICE inline void rescale(SplitPart<L, groups> & part, typename L::I all_on,
                                     const typename L::F * x, const typename L::F * weight) {
    using F = typename L::F;
    F sum_qx = L::all(0.f);
    F sum_q2 = L::all(0.f);
    for (int k = 0; k < groups; ++k) {
        const auto down = is_down<L, halves>(part.shift, k);
        APEX_UNROLL
        for (int i = 0; i < 8; ++i) {
            const F q = value_of<L>(down, Codebook<L, 8, 2>::level(part.code[k], i));
            const F wq = weight[8 * k + i] * q;
            sum_qx += wq * x[8 * k + i];
            sum_q2 += wq * q;
        }
    }
    const typename L::M again = (all_on == 0) & (sum_qx > 0.f) & (sum_q2 > 0.f);
    part.scale = L::select(again, sum_qx / sum_q2, part.scale);
}

template <typename L, int count>
APEX_HOST_DEVICE inline typename L::F largest_magnitude(const typename L::F * x) {
    auto max = L::abs(x[0]);
    for (int i = 1; i < count; ++i) {
        max = L::max(max, L::abs(x[i]));
    }
    return max;
}

// Empties a part in which nothing was found.
template <typename L, int groups>
APEX_HOST_DEVICE inline void finish_split(typename L::M is_empty, SplitPart<L, groups> & part) {
    using I = typename L::I;
    part.scale = L::select(is_empty, L::all(0.f), part.scale);
    part.shift = L::select(is_empty, I{}, part.shift);
    APEX_UNROLL
    for (int k = 0; k < groups; ++k) {
        part.code[k] = L::select(is_empty, I{}, part.code[k]);
    }
}

// The whole search for one part per lane. Returns whether a weight is too large.
template <typename L, int part, bool halves>
inline bool search_split(const Grid & grid, const typename L::F * x, const typename L::F * weight,
                         float smallest, SplitPart<L, part / 8> * result) {
    using F = typename L::F;
    using I = typename L::I;
    using Book = Codebook<L, 8, 2>;
    constexpr int groups = part / 8;
    const F max = largest_magnitude<L, part>(x);
    Sorted<L, part> sorted;
    for (int i = 0; i < part; ++i) {
        sorted.value[i] = x[i];
        sorted.weight[i] = weight[i];
        sorted.place[i] = L::all(i);
    }
    sort<L, part>(sorted);
    struct Array {
        F values[part + 1];
        F & operator[](int i) { return values[i]; }
        const F & operator[](int i) const { return values[i]; }
    };
    std::conditional_t<halves, HalfSums<L, part, Array>, WholeSums<L, part, Array>> sums;
    sums.fill(sorted);
    const SplitLevels<L, halves> split(sums.search(max), max, smallest);

    // Levels back to where the weights came from.
    alignas(64) int32_t levels[part][L::width];
    for (int j = 0; j < part; ++j) {
        int32_t places[L::width], values[L::width];
        const I level = split.level(j);
        std::memcpy(places, &sorted.place[j], sizeof(places));
        std::memcpy(values, &level, sizeof(values));
        for (int lane = 0; lane < L::width; ++lane) {
            levels[places[lane]][lane] = values[lane];
        }
    }
    alignas(64) float x_by_lane[L::width * part];
    alignas(64) float weight_by_lane[L::width * part];
    store_rows<L::width>(x, part, x_by_lane);
    store_rows<L::width>(weight, part, weight_by_lane);

    result->scale = split.scale;
    result->shift = split.shift;
    I all_on = ~I{};
    int32_t far_lanes[L::width] = {};
    for (int k = 0; k < groups; ++k) {
        float values_by_lane[L::width][4] = {};
        for (int l = 0; l < 3; ++l) {
            const F value = shifted_level<L>(is_down<L, halves>(split.shift, k), l);
            float of_lanes[L::width];
            std::memcpy(of_lanes, &value, sizeof(of_lanes));
            for (int lane = 0; lane < L::width; ++lane) {
                values_by_lane[lane][l] = of_lanes[lane];
            }
        }
        F level[8];
        for (int i = 0; i < 8; ++i) {
            I whole;
            std::memcpy(&whole, levels[8 * k + i], sizeof(whole));
            level[i] = to_float(whole);
        }
        I on_grid;
        result->code[k] = Book::snap(
            grid, level, {x_by_lane + 8 * k, weight_by_lane + 8 * k, part, values_by_lane[0]},
            split.scale, &on_grid, far_lanes);
        all_on &= on_grid;
    }
    rescale<L, groups, halves>(*result, all_on, x, weight);
    I far;
    std::memcpy(&far, far_lanes, sizeof(far));
    // The reference asserts that a scale is not NaN.
    const bool too_large = any(((far != 0) | (result->scale != result->scale)) & !split.is_empty);
    finish_split<L, groups>(split.is_empty, *result);
    return too_large;
}

}  // namespace
}  // namespace apex
