// The search of IQ2 and IQ3 for one part: scales are tried, the part's magnitudes go onto the
// codebook under each of them, and the groups are looked up again under the best.
#pragma once

#include "lane/transpose.h"
#include "searches/scales.h"
#include "searches/snap.h"

namespace apex {
namespace {

// Which groups of a part are looked up again with the scale that was found.
enum class Refine {
    all,         // all, always
    all_if_off,  // all, if one was off the grid; before the search all count as off
    those_off,   // those that were off the grid
};

// What the five formats do differently.
struct GridRules {
    bool parity;     // signs in 7 bits
    float smallest;  // a smaller maximum counts as zero; 0: only zero does
    int steps;       // tries scales -steps .. steps
    float delta;
    Refine refine;
    bool from_scales;  // begins with the scale of make_qp_quants
};

// One part of a super-block after its search.
template <typename L, int groups>
struct GridPart {
    typename L::F scale;
    typename L::I code[groups];
    typename L::I signs[4];  // per 8 weights
    typename L::M is_zero;   // nothing in it: scale, codes and signs are 0
};

// Magnitudes of eight weights, and their signs. Where signs have 7 bits and the parity is odd, the
// weight that matters least is turned round, and keeps a negative magnitude.
template <typename L>
APEX_HOST_DEVICE inline typename L::I take_signs(const typename L::F * x,
                                                 const typename L::F * weight, bool parity,
                                                 typename L::F * magnitude) {
    using F = typename L::F;
    using I = typename L::I;
    I signs{};
    I odd{};
    APEX_UNROLL
    for (int i = 0; i < 8; ++i) {
        const auto negative = x[i] < 0.f;
        magnitude[i] = L::select(negative, -x[i], x[i]);
        signs |= L::select(negative, L::all(1 << i), I{});
        odd ^= L::select(negative, L::all(1), I{});
    }
    if (!parity) {
        return signs;
    }
    I least_at{};
    F least = weight[0] * x[0] * x[0];
    APEX_UNROLL
    for (int i = 1; i < 8; ++i) {
        const F cost = weight[i] * x[i] * x[i];
        const auto cheaper = cost < least;
        least = L::select(cheaper, cost, least);
        least_at = L::select(cheaper, L::all(i), least_at);
    }
    APEX_UNROLL
    for (int i = 0; i < 8; ++i) {
        const auto flip = (odd == 1) & (least_at == i);
        magnitude[i] = L::select(flip, -magnitude[i], magnitude[i]);
        signs ^= L::select(flip, L::all(1 << i), I{});
    }
    return signs & 127;
}

// Where the search for a part's scale begins.
template <typename L>
struct GridStart {
    typename L::F scale;
    typename L::F largest;  // of what the scales tried are fractions
    typename L::M is_zero;
};

template <typename L, typename Book, int part>
APEX_HOST_DEVICE inline GridStart<L> grid_start(const GridRules & rules, const typename L::F * x,
                                                const typename L::F * weight) {
    typename L::F max = x[0];
    for (int i = 1; i < part; ++i) {
        max = L::max(max, x[i]);
    }
    if (rules.from_scales) {
        typename L::I unused[part];
        const auto first = quantize_scales<L, part>(x, weight, Book::levels + 1, unused);
        const auto most = first * static_cast<float>(Book::levels);
        const typename L::M is_zero = (max < rules.smallest) | (most <= 0.f);
        return {first, most, is_zero};
    }
    const auto is_zero = rules.smallest > 0.f ? max < rules.smallest : max == 0.f;
    return {max / static_cast<float>(Book::top), max, is_zero};
}

// One over the scale of a step.
template <typename L, typename Book>
APEX_HOST_DEVICE inline typename L::F tried_inverse(const GridRules & rules, int step,
                                                    typename L::F largest) {
    const float numerator = static_cast<float>(Book::top) + static_cast<float>(step) * rules.delta;
    return numerator / largest;
}

// Sums over a part: of weight * x * q and of weight * q^2, q being the values of its codes.
template <typename L>
struct GridSums {
    typename L::F qx, q2;
};

template <typename L, typename Book, int groups>
APEX_HOST_DEVICE inline GridSums<L> sum_codes(const typename L::I * code, const typename L::F * x,
                                              const typename L::F * weight) {
    GridSums<L> sums{L::all(0.f), L::all(0.f)};
    for (int k = 0; k < groups; ++k) {
        APEX_UNROLL
        for (int i = 0; i < Book::coordinates; ++i) {
            const int at = k * Book::coordinates + i;
            const auto q = to_float(2 * Book::level(code[k], i) + 1);
            sums.qx += weight[at] * x[at] * q;
            sums.q2 += weight[at] * q * q;
        }
    }
    return sums;
}

// The best scale so far.
template <typename L>
struct GridBest {
    typename L::F scale;
    typename L::F score;

    // Whether these sums are better; then their scale is taken.
    APEX_HOST_DEVICE typename L::M offer(const GridSums<L> & sums) {
        const typename L::M better = (sums.q2 > 0.f) & (sums.qx * sums.qx > score * sums.q2);
        scale = L::select(better, sums.qx / sums.q2, scale);
        score = L::select(better, scale * sums.qx, score);
        return better;
    }
};

// Whether a part's codes are looked up again; `all_on` is all ones where all are on the grid.
template <typename L>
APEX_HOST_DEVICE inline typename L::M wants_refinement(const GridRules & rules, typename L::F scale,
                                                       typename L::I all_on) {
    const typename L::M positive = scale > 0.f;
    return rules.refine == Refine::all ? positive : positive & (all_on == 0);
}

// Scale and signs of a part as they are written; a negative scale turns the signs round.
template <typename L, int groups, int signed_eights>
APEX_HOST_DEVICE inline void finish_part(const GridRules & rules, GridPart<L, groups> & part) {
    using I = typename L::I;
    const typename L::M negative = part.scale < 0.f;
    part.scale = L::select(part.is_zero, L::all(0.f), L::select(negative, -part.scale, part.scale));
    APEX_UNROLL
    for (int k = 0; k < groups; ++k) {
        part.code[k] = L::select(part.is_zero, I{}, part.code[k]);
    }
    const int all_signs = rules.parity ? 127 : 255;
    APEX_UNROLL
    for (int k = 0; k < signed_eights; ++k) {
        const I signs = L::select(negative, ~part.signs[k] & all_signs, part.signs[k]);
        part.signs[k] = L::select(part.is_zero, I{}, signs);
    }
}

// The whole search for one part per lane.
template <typename L, typename Book, int part>
class GridSearch {
  public:
    using F = typename L::F;
    using I = typename L::I;
    using M = typename L::M;
    static constexpr int groups = part / Book::coordinates;

    GridSearch(const Grid & grid, const GridRules & rules, const F * x, const F * weight)
        : grid_(grid), rules_(rules), weight_(weight) {
        for (int k = 0; k < part / 8; ++k) {
            part_.signs[k] = take_signs<L>(x + 8 * k, weight + 8 * k, rules.parity, x_ + 8 * k);
        }
        F root[part];
        for (int i = 0; i < part; ++i) {
            root[i] = square_root(weight[i]);
        }
        store_rows<L::width>(x_, part, x_by_lane_);
        store_rows<L::width>(root, part, root_by_lane_);
        for (int i = 0; i < L::width << Book::bits; ++i) {
            values_[i] = static_cast<float>(2 * (i & ((1 << Book::bits) - 1)) + 1);
        }
    }

    // Returns whether a weight is too large.
    bool run(GridPart<L, groups> * result) {
        const auto start = grid_start<L, Book, part>(rules_, x_, weight_);
        search(start);
        refine();
        I far;
        std::memcpy(&far, far_, sizeof(far));
        part_.is_zero = start.is_zero;
        // The reference asserts that a scale is not NaN.
        const bool too_large = any(((far != 0) | (part_.scale != part_.scale)) & !start.is_zero);
        finish_part<L, groups, part / 8>(rules_, part_);
        *result = part_;
        return too_large;
    }

  private:
    // Kept out of the loops around it, which are faster when they are small.
    [[gnu::noinline]] I snap(int k, F inverse, F scale, I * on_grid) {
        const int first = k * Book::coordinates;
        F level[Book::coordinates];
        Book::round(x_ + first, inverse, level);
        return Book::snap(grid_, level, {x_by_lane_ + first, root_by_lane_ + first, part, values_},
                          scale, on_grid, far_);
    }

    void search(const GridStart<L> & start) {
        GridBest<L> best{start.scale, L::all(0.f)};
        for (int k = 0; k < groups; ++k) {
            part_.code[k] = I{};
            on_grid_[k] = rules_.refine == Refine::all_if_off ? I{} : ~I{};
        }
        for (int step = -rules_.steps; step <= rules_.steps; ++step) {
            const F inverse = tried_inverse<L, Book>(rules_, step, start.largest);
            const F scale = 1.f / inverse;
            I code[groups], on_grid[groups];
            for (int k = 0; k < groups; ++k) {
                code[k] = snap(k, inverse, scale, &on_grid[k]);
            }
            const M better = best.offer(sum_codes<L, Book, groups>(code, x_, weight_));
            for (int k = 0; k < groups; ++k) {
                part_.code[k] = L::select(better, code[k], part_.code[k]);
                on_grid_[k] = L::select(better, on_grid[k], on_grid_[k]);
            }
        }
        part_.scale = best.scale;
    }

    void refine() {
        I all_on = ~I{};
        for (int k = 0; k < groups; ++k) {
            all_on &= on_grid_[k];
        }
        const M wanted = wants_refinement<L>(rules_, part_.scale, all_on);
        if (!any(wanted)) {
            return;
        }
        const F inverse = 1.f / part_.scale;
        for (int k = 0; k < groups; ++k) {
            I on_grid;
            const I code = snap(k, inverse, part_.scale, &on_grid);
            const M taken =
                rules_.refine == Refine::those_off ? wanted & (on_grid_[k] == 0) : wanted;
            part_.code[k] = L::select(taken, code, part_.code[k]);
        }
        const auto sums = sum_codes<L, Book, groups>(part_.code, x_, weight_);
        part_.scale = L::select(wanted & (sums.q2 > 0.f), sums.qx / sums.q2, part_.scale);
    }

    const Grid & grid_;
    const GridRules & rules_;
    const F * weight_;
    F x_[part];  // without signs
    alignas(64) float x_by_lane_[L::width * part];
    alignas(64) float root_by_lane_[L::width * part];
    alignas(64) float values_[L::width << Book::bits];
    GridPart<L, groups> part_;
    I on_grid_[groups];
    int32_t far_[L::width] = {};
};

}  // namespace
}  // namespace apex
