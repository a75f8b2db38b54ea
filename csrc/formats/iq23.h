// IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S: magnitudes on a codebook, signs beside. A lane owns a
// super-block of 256; only the choice among the neighbours of a point runs lane by lane, with the
// neighbours side by side (searches/nearest.h).
//
// Byte layouts, d being binary16:
//   IQ2_XXS  66   d, per 32 weights: 4 grid indices, 4 x 7 signs and a 4-bit scale
//   IQ2_XS   74   d, per 8: 9-bit grid index and 7 signs, scales 8
//   IQ2_S    82   d, grid 32, signs 32, grid high bits 8, scales 8
//   IQ3_XXS  98   d, grid 64, per 32: 4 x 7 signs and a 4-bit scale
//   IQ3_S   110   d, grid 64, grid high bits 8, signs 32, scales 4
// Where a sign has 7 bits, the eighth is their parity; a weight that would break it is flipped.
// Equal to ggml's quantize_row_iq2_xxs_impl, and so on.
#pragma once

#include "formats/k_quants.h"
#include "lane/transpose.h"
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

struct Iq2Xxs : GridFormat<Iq2Xxs, 66, 8, 8, 2, false> {
    static constexpr float share = 0.f;
    struct Tables : Grid {
        static constexpr int longest = 150;  // list of neighbours
        static const Grid & get() { return grid_iq2_xxs(); }
    };
    APEX_HOST_DEVICE static constexpr GridRules rules() {
        return {true, 1e-15f, 6, 0.1f, Refine::all, true};
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const typename L::F *,
                                         const typename L::F *, const Found<L> * found, Scales<L> *,
                                         Out out) {
        typename L::F scales[8];
        typename L::I integers[8];
        for (int j = 0; j < 8; ++j) {
            scales[j] = found[j].scale;
            for (int k = 0; k < 4; ++k) {
                out[2 + 8 * j + k] = Book<L>::index(grid, found[j].code[k]);
            }
        }
        typename L::M is_empty;
        put_half(pack_part_scales<L, 8>(scales, 1.f, integers, &is_empty), out);
        for (int j = 0; j < 8; ++j) {
            put_word(signs_and_scale(found[j], integers[j]), out + 2 + 8 * j + 4);
        }
        clear<L, bytes>(is_empty, out);
        return false;
    }
};

// IQ2_XS and IQ2_S; the latter has all signs, a larger grid, and goes without importance too.
template <bool large>
struct Iq2Xs : GridFormat<Iq2Xs<large>, large ? 82 : 74, 16, 8, 2, large> {
    using Base = GridFormat<Iq2Xs<large>, large ? 82 : 74, 16, 8, 2, large>;
    static constexpr float share = 0.25f;
    struct Tables : Grid {
        static constexpr int longest = large ? 70 : 292;  // list of neighbours
        static const Grid & get() { return large ? grid_iq2_s() : grid_iq2_xs(); }
    };
    template <typename L>
    using Found = typename Base::template Found<L>;
    template <typename L>
    using Scales = typename Base::template Scales<L>;

    APEX_HOST_DEVICE static constexpr GridRules rules() {
        return {!large, large ? 1e-8f : 1e-15f, 9, 0.1f, Refine::those_off, false};
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const typename L::F *,
                                         const typename L::F *, const Found<L> * found, Scales<L> *,
                                         Out out) {
        using I = typename L::I;
        using Book = typename Base::template Book<L>;
        typename L::F scales[16];
        I integers[16], index[32];
        for (int k = 0; k < 32; ++k) {
            const I signs = found[k / 2].signs[k % 2];
            scales[k / 2] = found[k / 2].scale;
            index[k] = Book::index(grid, found[k / 2].code[k % 2]);
            if constexpr (large) {
                out[2 + k] = index[k] & 255;
                out[34 + k] = signs;
            } else {
                out[2 + 2 * k] = index[k] & 255;
                out[3 + 2 * k] = index[k] >> 8 | signs << 1;
            }
        }
        typename L::M is_empty;
        put_half(pack_part_scales<L, 16>(scales, large ? 0.9875f : 1.f, integers, &is_empty), out);
        for (int j = 0; j < 8; ++j) {
            if constexpr (large) {
                const I * q = index + 4 * j;
                out[66 + j] = q[0] >> 8 | q[1] >> 8 << 2 | q[2] >> 8 << 4 | q[3] >> 8 << 6;
            }
            out[Base::bytes - 8 + j] = integers[2 * j] | integers[2 * j + 1] << 4;
        }
        if constexpr (!large) {
            clear<L, Base::bytes>(is_empty, out);
        }
        return false;
    }
};

struct Iq3Xxs : GridFormat<Iq3Xxs, 98, 8, 4, 3, true> {
    static constexpr float share = 0.f;
    struct Tables : Grid {
        static constexpr int longest = 36;  // list of neighbours
        static const Grid & get() { return grid_iq3_xxs(); }
    };
    APEX_HOST_DEVICE static constexpr GridRules rules() {
        return {true, 1e-8f, 15, 0.2f, Refine::those_off, false};
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const typename L::F *,
                                         const typename L::F *, const Found<L> * found, Scales<L> *,
                                         Out out) {
        typename L::F scales[8];
        typename L::I integers[8];
        for (int j = 0; j < 8; ++j) {
            scales[j] = found[j].scale;
            for (int k = 0; k < 8; ++k) {
                out[2 + 8 * j + k] = Book<L>::index(grid, found[j].code[k]);
            }
        }
        typename L::M is_empty;
        put_half(pack_part_scales<L, 8>(scales, 1.0125f, integers, &is_empty), out);
        for (int j = 0; j < 8; ++j) {
            put_word(signs_and_scale(found[j], integers[j]), out + 66 + 4 * j);
        }
        clear<L, bytes>(is_empty, out);
        return false;
    }
};

struct Iq3S : GridFormat<Iq3S, 110, 8, 4, 3, true> {
    static constexpr float share = 0.f;
    struct Tables : Grid {
        static constexpr int longest = 38;  // list of neighbours
        static const Grid & get() { return grid_iq3_s(); }
    };
    APEX_HOST_DEVICE static constexpr GridRules rules() {
        return {false, 0.f, 9, 0.2f, Refine::all_if_off, false};
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const Grid & grid, const typename L::F *,
                                         const typename L::F *, const Found<L> * found, Scales<L> *,
                                         Out out) {
        using I = typename L::I;
        typename L::F scales[8];
        I integers[8];
        I place{};
        for (int i = 2; i < bytes; ++i) {
            out[i] = I{};
        }
        for (int j = 0; j < 8; ++j) {
            scales[j] = found[j].scale;
            I index[8];
            I high{};
            for (int k = 0; k < 8; ++k) {
                index[k] = Book<L>::index(grid, found[j].code[k]);
                high |= index[k] >> 8 << k;
            }
            out[66 + j] = high;
            // The reference does not step over the place of a part that is zero.
            for (int t = any(place != j) ? 0 : j; t <= j; ++t) {
                const auto here = place == t;
                put<L, 8>(here, index, out + 2 + 8 * t);
                put<L, 4>(here, found[j].signs, out + 74 + 4 * t);
            }
            place += L::select(found[j].is_zero, I{}, L::all(1));
        }
        typename L::M is_empty;
        put_half(pack_part_scales<L, 8>(scales, 1.033f, integers, &is_empty), out);
        for (int j = 0; j < 4; ++j) {
            out[106 + j] = integers[2 * j] | integers[2 * j + 1] << 4;
        }
        return false;
    }

  private:
    template <typename L, int count, typename Out>
    APEX_HOST_DEVICE static void put(typename L::M here, const typename L::I * values, Out target) {
        for (int k = 0; k < count; ++k) {
            target[k] = L::select(here, values[k] & 255, target[k]);
        }
    }
};

}  // namespace
}  // namespace apex
