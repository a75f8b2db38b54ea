// IQ1_S and IQ1_M: three levels on a codebook of 2048 points, shifted up or down by 1/8. A lane
// owns a super-block of 256; only the choice among the neighbours of a point runs lane by lane,
// with the neighbours side by side (lane/nearest.h).
//
// Byte layouts, d being binary16:
//   IQ1_S 50   d, qs 32, qh 8 x 16 bits (4 x 3 high bits, 3-bit scale, shift)
//   IQ1_M 56   qs 32, qh 16 (2 x (3 high bits, shift)), scales 8 (16 x 3 bits, and d in the rest)
// Equal to ggml's quantize_row_iq1_s_impl and quantize_row_iq1_m_impl: a part's weights are sorted,
// and every pair of boundaries between the levels is tried with prefix sums.
#pragma once

#include "kernels/k_quants.h"
#include "kernels/snap.h"
#include "kernels/sort.h"
#include "kernels/tables.h"

namespace apex {
namespace {

constexpr float kShift = IQ1S_DELTA;
static_assert(IQ1S_DELTA == IQ1M_DELTA, "one shift for both formats");

// The levels -1, 0, 1 shifted up or down.
constexpr float kUp[3] = {-1 + kShift, kShift, 1 + kShift};
constexpr float kDown[3] = {-1 - kShift, -kShift, 1 - kShift};

// The best pair of boundaries: sorted weights below `first` take level 0, below `second` level 1.
template <typename L>
struct Split {
    typename L::F scale;
    typename L::F score;
    typename L::I first;
    typename L::I second;
    typename L::I shift;  // which of the shifts: see the two searches

    void offer(typename L::F sum_qx, typename L::F sum_q2, int i1, int i2, int which) {
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

template <typename L>
inline Split<L> no_split(typename L::F scale) {
    return {scale, L::all(-kFarthest), L::all(-1), L::all(-1), L::all(-1)};
}

// Shift 0 is up, 1 is down, for the whole part.
template <typename L, int part>
inline Split<L> search_split_whole(const Sorted<L, part> & s, typename L::F max) {
    using F = typename L::F;
    F sum_x[part + 1], sum_w[part + 1];
    sum_x[0] = sum_w[0] = L::all(0.f);
    for (int j = 0; j < part; ++j) {
        sum_x[j + 1] = sum_x[j] + s.weight[j] * s.value[j];
        sum_w[j + 1] = sum_w[j] + s.weight[j];
    }
    // What the third level adds, for every second boundary and both shifts.
    F above_x[2][part + 1], above_w[2][part + 1];
    for (int i = 0; i <= part; ++i) {
        const F x = sum_x[part] - sum_x[i];
        const F w = sum_w[part] - sum_w[i];
        above_x[0][i] = x * kUp[2];
        above_x[1][i] = x * kDown[2];
        above_w[0][i] = w * kUp[2] * kUp[2];
        above_w[1][i] = w * kDown[2] * kDown[2];
    }
    Split<L> best = no_split<L>(max);
    for (int i1 = 0; i1 <= part; ++i1) {
        const F below_x[2] = {sum_x[i1] * kUp[0], sum_x[i1] * kDown[0]};
        const F below_w[2] = {sum_w[i1] * kUp[0] * kUp[0], sum_w[i1] * kDown[0] * kDown[0]};
        for (int i2 = i1; i2 <= part; ++i2) {
            const F x = sum_x[i2] - sum_x[i1];
            const F w = sum_w[i2] - sum_w[i1];
            best.offer(below_x[0] + x * kUp[1] + above_x[0][i2],
                       below_w[0] + w * kUp[1] * kUp[1] + above_w[0][i2], i1, i2, 0);
            best.offer(below_x[1] + x * kDown[1] + above_x[1][i2],
                       below_w[1] + w * kDown[1] * kDown[1] + above_w[1][i2], i1, i2, 1);
        }
    }
    return best;
}

// A shift per half of the part: bit 1 of `shift` for the first half, bit 0 for the second; set is
// down. The levels being one apart, a sum collapses to total * level 2 minus two prefix sums.
template <typename L, int part>
inline Split<L> search_split_halves(const Sorted<L, part> & s, typename L::F max) {
    using F = typename L::F;
    constexpr float first_up = kUp[0] * kUp[0] - kUp[1] * kUp[1];
    constexpr float second_up = kUp[1] * kUp[1] - kUp[2] * kUp[2];
    constexpr float first_down = kDown[0] * kDown[0] - kDown[1] * kDown[1];
    constexpr float second_down = kDown[1] * kDown[1] - kDown[2] * kDown[2];
    F px[2][part + 1], pw[2][part + 1];
    for (int h = 0; h < 2; ++h) {
        px[h][0] = pw[h][0] = L::all(0.f);
        for (int j = 0; j < part; ++j) {
            const auto mine = h == 0 ? s.place[j] < part / 2 : s.place[j] >= part / 2;
            px[h][j + 1] = L::select(mine, px[h][j] + s.weight[j] * s.value[j], px[h][j]);
            pw[h][j + 1] = L::select(mine, pw[h][j] + s.weight[j], pw[h][j]);
        }
    }
    F second[2][2][part + 1];  // half, shift, boundary
    for (int h = 0; h < 2; ++h) {
        for (int i = 0; i <= part; ++i) {
            second[h][0][i] = pw[h][i] * second_up;
            second[h][1][i] = pw[h][i] * second_down;
        }
    }
    Split<L> best = no_split<L>(max);
    for (int i1 = 0; i1 <= part; ++i1) {
        F first[2][2], total[2][2];
        for (int h = 0; h < 2; ++h) {
            total[h][0] = px[h][part] * kUp[2];
            total[h][1] = px[h][part] * kDown[2];
            first[h][0] = pw[h][part] * kUp[2] * kUp[2] + pw[h][i1] * first_up;
            first[h][1] = pw[h][part] * kDown[2] * kDown[2] + pw[h][i1] * first_down;
        }
        for (int i2 = i1; i2 <= part; ++i2) {
            F qx[2][2], q2[2][2];
            for (int h = 0; h < 2; ++h) {
                const F sx = px[h][i1] + px[h][i2];
                for (int shift = 0; shift < 2; ++shift) {
                    qx[h][shift] = total[h][shift] - sx;
                    q2[h][shift] = first[h][shift] + second[h][shift][i2];
                }
            }
            for (int k = 0; k < 4; ++k) {
                best.offer(qx[0][k / 2] + qx[1][k % 2], q2[0][k / 2] + q2[1][k % 2], i1, i2, k);
            }
        }
    }
    return best;
}

// One part after its search. Where nothing was found: scale 0, shift 0, codes 0.
template <typename L, int groups>
struct SplitPart {
    typename L::F scale;
    typename L::I shift;
    typename L::I code[groups];
    bool too_large;
};

// The values of the levels under a shift, per lane.
template <typename L>
inline void shifted_levels(typename L::M down, typename L::F * values) {
    for (int l = 0; l < 3; ++l) {
        values[l] = L::select(down, L::all(kDown[l]), L::all(kUp[l]));
    }
}

template <typename L, int part, bool halves>
inline typename L::M is_down(typename L::I shift, int group) {
    return (halves && group == 0 ? shift >> 1 : shift & 1) == 1;
}

template <typename L, int part, bool halves>
inline SplitPart<L, part / 8> search_split(const Grid & grid, const typename L::F * x,
                                           const typename L::F * weight, float smallest) {
    using F = typename L::F;
    using I = typename L::I;
    using M = typename L::M;
    using Book = Codebook<L, 8, 2>;
    constexpr int groups = part / 8;
    F max = L::abs(x[0]);
    for (int i = 1; i < part; ++i) {
        max = L::max(max, L::abs(x[i]));
    }
    Sorted<L, part> sorted;
    for (int i = 0; i < part; ++i) {
        sorted.value[i] = x[i];
        sorted.weight[i] = weight[i];
        sorted.place[i] = L::all(i);
    }
    sort<L, part>(sorted);
    const Split<L> best = halves ? search_split_halves<L, part>(sorted, max)
                                 : search_split_whole<L, part>(sorted, max);
    const M is_empty = (max < smallest) | (best.first < 0);

    // Levels back to where the weights came from; mirrored where the scale is negative.
    const M negative = best.scale < 0.f;
    alignas(64) int32_t levels[part][L::width];
    for (int j = 0; j < part; ++j) {
        const I level =
            L::select(j < best.first, I{}, L::select(j < best.second, L::all(1), L::all(2)));
        int32_t places[L::width], values[L::width];
        const I mirrored = L::select(negative, 2 - level, level);
        std::memcpy(places, &sorted.place[j], sizeof(places));
        std::memcpy(values, &mirrored, sizeof(values));
        for (int lane = 0; lane < L::width; ++lane) {
            levels[places[lane]][lane] = values[lane];
        }
    }
    F scale = L::select(negative, -best.scale, best.scale);
    const I shift = L::select(negative, (halves ? 3 : 1) - best.shift, best.shift);

    alignas(64) float x_by_lane[L::width * part];
    alignas(64) float weight_by_lane[L::width * part];
    store_rows<L::width>(x, part, x_by_lane);
    store_rows<L::width>(weight, part, weight_by_lane);

    SplitPart<L, groups> result;
    I all_on = ~I{};
    int32_t far_lanes[L::width] = {};
    F sum_qx = L::all(0.f);
    F sum_q2 = L::all(0.f);
    for (int k = 0; k < groups; ++k) {
        F values[3], level[8];
        shifted_levels<L>(is_down<L, part, halves>(shift, k), values);
        float values_by_lane[L::width][4] = {};
        for (int l = 0; l < 3; ++l) {
            float of_lanes[L::width];
            std::memcpy(of_lanes, &values[l], sizeof(of_lanes));
            for (int lane = 0; lane < L::width; ++lane) {
                values_by_lane[lane][l] = of_lanes[lane];
            }
        }
        for (int i = 0; i < 8; ++i) {
            I whole;
            std::memcpy(&whole, levels[8 * k + i], sizeof(whole));
            level[i] = to_float(whole);
        }
        I on_grid;
        const I code = Book::snap(
            grid, level, {x_by_lane + 8 * k, weight_by_lane + 8 * k, part, values_by_lane[0]},
            scale, &on_grid, far_lanes);
        all_on &= on_grid;
        result.code[k] = L::select(is_empty, I{}, code);
        for (int i = 0; i < 8; ++i) {
            const I l = Book::level(code, i);
            const F q = L::select(l == 0, values[0], L::select(l == 1, values[1], values[2]));
            const F wq = weight[8 * k + i] * q;
            sum_qx += wq * x[8 * k + i];
            sum_q2 += wq * q;
        }
    }
    const M again = (all_on == 0) & (sum_qx > 0.f) & (sum_q2 > 0.f);
    scale = L::select(again, sum_qx / sum_q2, scale);
    result.scale = L::select(is_empty, L::all(0.f), scale);
    result.shift = L::select(is_empty, I{}, shift);
    I far;
    std::memcpy(&far, far_lanes, sizeof(far));
    // The reference asserts that a scale is not NaN.
    result.too_large = any(((far != 0) | (scale != scale)) & !is_empty);
    return result;
}

// The 3-bit scales: ggml's nearest_int(0.5f * (scale / d - 1)) with d the largest over 15.
template <typename L, int count>
inline typename L::F round_split_scales(const typename L::F * scales, typename L::F * integers,
                                        typename L::M * is_empty) {
    using F = typename L::F;
    F max = L::all(0.f);
    for (int j = 0; j < count; ++j) {
        max = L::max(max, scales[j]);
    }
    *is_empty = max == 0.f;
    const F d = max / 15.f;
    const F inverse = 1.f / d;
    for (int j = 0; j < count; ++j) {
        integers[j] = L::nearest(0.5f * (inverse * scales[j] - 1.f), 0.f, 7.f);
    }
    return d;
}

struct Iq1S {
    static constexpr int weights = kSuper;
    static constexpr int bytes = 50;
    using halves = Halves<0>;

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        const Grid & grid = grid_iq1();
        const F sigma2 = 2.f * sum_of_squares<L>(blocks.x, kSuper) / 256.f;
        F scales[8], integers[8], weight[32];
        I high[8], shift[8];
        for (int j = 0; j < 8; ++j) {
            importance_weights<L, 32>(blocks, 32 * j, sigma2, weight);
            const auto part = search_split<L, 32, false>(grid, blocks.x + 32 * j, weight, 1e-12f);
            blocks.report(part.too_large);
            scales[j] = part.scale;
            shift[j] = part.shift;
            high[j] = I{};
            for (int k = 0; k < 4; ++k) {
                const I index = Codebook<L, 8, 2>::index(grid, part.code[k]);
                out[2 + 4 * j + k] = index & 255;
                high[j] |= index >> 8 << (3 * k);
            }
        }
        typename L::M is_empty;
        const F d = round_split_scales<L, 8>(scales, integers, &is_empty);
        put_half<L>(L::select(is_empty, I{}, L::to_half(d * 1.125f)), out);
        for (int j = 0; j < 8; ++j) {
            const I scale = to_int(integers[j]) | shift[j] << 3;
            put_half<L>(high[j] | L::select(is_empty, I{}, scale) << 12, out + 34 + 2 * j);
        }
    }
};

struct Iq1M {
    static constexpr int weights = kSuper;
    static constexpr int bytes = 56;
    using halves = Halves<>;  // its only one is in pieces

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        const Grid & grid = grid_iq1();
        const F sigma2 = 2.f * sum_of_squares<L>(blocks.x, kSuper) / 256.f;
        F scales[16], integers[16], weight[kSuper];
        I high[16], shift[16], code[32];
        for (int j = 0; j < 16; ++j) {
            part_weights<L, weighted>(blocks, 16 * j, sigma2, weight + 16 * j);
            const auto part =
                search_split<L, 16, true>(grid, blocks.x + 16 * j, weight + 16 * j, 1e-7f);
            blocks.report(part.too_large);
            scales[j] = part.scale;
            shift[j] = part.shift;
            high[j] = I{};
            for (int k = 0; k < 2; ++k) {
                code[2 * j + k] = part.code[k];
                const I index = Codebook<L, 8, 2>::index(grid, part.code[k]);
                out[2 * j + k] = index & 255;
                high[j] |= index >> 8 << (4 * k);
            }
        }
        typename L::M is_empty;
        F d = round_split_scales<L, 16>(scales, integers, &is_empty);

        // d again, from all weights and the rounded scales.
        F sum_qx = L::all(0.f);
        F sum_q2 = L::all(0.f);
        for (int j = 0; j < 32; ++j) {
            F values[3];
            shifted_levels<L>(is_down<L, 16, true>(shift[j / 2], j % 2), values);
            const F factor = 2.f * integers[j / 2] + 1.f;
            for (int i = 0; i < 8; ++i) {
                const I l = Codebook<L, 8, 2>::level(code[j], i);
                const F value =
                    L::select(l == 0, values[0], L::select(l == 1, values[1], values[2]));
                const F q = value * factor;
                const F wq = weight[8 * j + i] * q;
                sum_qx += wq * blocks.x[8 * j + i];
                sum_q2 += wq * q;
            }
        }
        d = L::select(sum_q2 > 0.f, sum_qx / sum_q2, d);
        const I half = L::to_half(d * 1.1125f);
        blocks.report(any(((half & 0x7c00) == 0x7c00) & !is_empty));
        for (int j = 0; j < 16; ++j) {
            const I signs = (shift[j] >> 1) << 3 | (shift[j] & 1) << 7;
            out[32 + j] = high[j] | L::select(is_empty, I{}, signs);
        }
        for (int j = 0; j < 4; ++j) {
            I word = (half >> (4 * j) & 15) << 12;
            for (int k = 0; k < 4; ++k) {
                word |= to_int(integers[4 * j + k]) << (3 * k);
            }
            put_half<L>(L::select(is_empty, I{}, word), out + 48 + 2 * j);
        }
    }

  private:
    template <typename L, bool weighted>
    static void part_weights(const Super<L> & blocks, int first, typename L::F sigma2,
                             typename L::F * weight) {
        if constexpr (weighted) {
            importance_weights<L, 16>(blocks, first, sigma2, weight);
        } else {
            for (int i = 0; i < 16; ++i) {
                weight[i] = blocks.x[first + i] * blocks.x[first + i];
            }
        }
    }
};

}  // namespace
}  // namespace apex
