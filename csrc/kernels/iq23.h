// IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S: magnitudes on a codebook, signs beside. A lane owns a
// super-block of 256; only the choice among the neighbours of a point runs lane by lane, with the
// neighbours side by side (lane/nearest.h).
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

#include "kernels/k_quants.h"
#include "kernels/snap.h"

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
};

// One part of a super-block after its search.
template <typename L, int groups>
struct GridPart {
    typename L::F scale;
    typename L::I code[groups];
    typename L::I signs[4];  // per 8 weights
    typename L::M is_zero;   // nothing in it: scale, codes and signs are 0
    bool too_large;          // a distance overflowed
};

template <typename L, typename Book, int part>
class GridSearch {
  public:
    using F = typename L::F;
    using I = typename L::I;
    using M = typename L::M;
    static constexpr int groups = part / Book::coordinates;

    GridSearch(const Grid & grid, const GridRules & rules, const F * x, const F * weight)
        : grid_(grid), rules_(rules), weight_(weight) {
        take_signs(x);
        F root[part];
        for (int i = 0; i < part; ++i) {
            root[i] = square_root(weight[i]);
        }
        store_rows<L::width>(x_, part, x_by_lane_);
        store_rows<L::width>(root, part, root_by_lane_);
        for (int i = 0; i < L::width << Book::bits; ++i) {
            values_[i] = static_cast<float>(2 * (i & ((1 << Book::bits) - 1)) + 1);
        }
        max_ = x_[0];
        for (int i = 1; i < part; ++i) {
            max_ = L::max(max_, x_[i]);
        }
        for (int i = 0; i < part; ++i) {
            weighted_x_[i] = weight[i] * x_[i];
        }
    }

    GridPart<L, groups> run() {
        const M is_zero = rules_.smallest > 0.f ? max_ < rules_.smallest : max_ == 0.f;
        search(max_ / static_cast<float>(kTop), max_, L::all(0.f));
        refine();
        return finish(is_zero);
    }

    // As IQ2_XXS does, from the scale of make_qp_quants.
    GridPart<L, groups> run_from_scales() {
        I unused[part];
        const F first = quantize_scales<L, part>(x_, weight_, Book::levels + 1, unused);
        const F most = first * static_cast<float>(Book::levels);
        const M is_zero = (max_ < rules_.smallest) | (most <= 0.f);
        search(first, most, L::all(0.f));
        refine();
        return finish(is_zero);
    }

  private:
    static constexpr int kTop = 2 * Book::levels - 1;

    void take_signs(const F * x) {
        for (int k = 0; k < part / 8; ++k) {
            I signs{};
            I odd{};
            for (int i = 8 * k; i < 8 * k + 8; ++i) {
                const M negative = x[i] < 0.f;
                x_[i] = L::select(negative, -x[i], x[i]);
                const I bit = L::select(negative, L::all(1 << (i % 8)), I{});
                signs |= bit;
                odd ^= L::select(negative, L::all(1), I{});
            }
            if (rules_.parity) {
                I least_at{};
                F least = weight_[8 * k] * x[8 * k] * x[8 * k];
                for (int i = 1; i < 8; ++i) {
                    const F cost = weight_[8 * k + i] * x[8 * k + i] * x[8 * k + i];
                    const M cheaper = cost < least;
                    least = L::select(cheaper, cost, least);
                    least_at = L::select(cheaper, L::all(i), least_at);
                }
                for (int i = 0; i < 8; ++i) {
                    const M flip = (odd == 1) & (least_at == i);
                    x_[8 * k + i] = L::select(flip, -x_[8 * k + i], x_[8 * k + i]);
                    signs ^= L::select(flip, L::all(1 << i), I{});
                }
                signs &= 127;
            }
            signs_[k] = signs;
        }
    }

    void sum(const I * code, F * sum_qx, F * sum_q2) const {
        *sum_qx = *sum_q2 = L::all(0.f);
        for (int k = 0; k < groups; ++k) {
            for (int i = 0; i < Book::coordinates; ++i) {
                const int at = k * Book::coordinates + i;
                const F q = to_float(2 * Book::level(code[k], i) + 1);
                *sum_qx += weighted_x_[at] * q;
                *sum_q2 += weight_[at] * q * q;
            }
        }
    }

    I snap(int k, F inverse, F scale, I * on_grid) {
        const int first = k * Book::coordinates;
        F level[Book::coordinates];
        Book::round(x_ + first, inverse, level);
        return Book::snap(grid_, level, {x_by_lane_ + first, root_by_lane_ + first, part, values_},
                          scale, on_grid, far_);
    }

    void search(F scale, F largest, F best) {
        scale_ = scale;
        for (int k = 0; k < groups; ++k) {
            code_[k] = I{};
            on_grid_[k] = rules_.refine == Refine::all_if_off ? I{} : ~I{};
        }
        for (int step = -rules_.steps; step <= rules_.steps; ++step) {
            const float numerator =
                static_cast<float>(kTop) + static_cast<float>(step) * rules_.delta;
            const F inverse = numerator / largest;
            const F this_scale = 1.f / inverse;
            I code[groups], on_grid[groups];
            for (int k = 0; k < groups; ++k) {
                code[k] = snap(k, inverse, this_scale, &on_grid[k]);
            }
            F sum_qx, sum_q2;
            sum(code, &sum_qx, &sum_q2);
            const M better = (sum_q2 > 0.f) & (sum_qx * sum_qx > best * sum_q2);
            scale_ = L::select(better, sum_qx / sum_q2, scale_);
            best = L::select(better, scale_ * sum_qx, best);
            for (int k = 0; k < groups; ++k) {
                code_[k] = L::select(better, code[k], code_[k]);
                on_grid_[k] = L::select(better, on_grid[k], on_grid_[k]);
            }
        }
    }

    void refine() {
        I all_on = ~I{};
        for (int k = 0; k < groups; ++k) {
            all_on &= on_grid_[k];
        }
        M wanted = scale_ > 0.f;
        if (rules_.refine != Refine::all) {
            wanted = wanted & (all_on == 0);
        }
        if (!any(wanted)) {
            return;
        }
        const F inverse = 1.f / scale_;
        for (int k = 0; k < groups; ++k) {
            I on_grid;
            const I code = snap(k, inverse, scale_, &on_grid);
            const M taken =
                rules_.refine == Refine::those_off ? wanted & (on_grid_[k] == 0) : wanted;
            code_[k] = L::select(taken, code, code_[k]);
        }
        F sum_qx, sum_q2;
        sum(code_, &sum_qx, &sum_q2);
        scale_ = L::select(wanted & (sum_q2 > 0.f), sum_qx / sum_q2, scale_);
    }

    GridPart<L, groups> finish(M is_zero) const {
        GridPart<L, groups> result;
        I far;
        std::memcpy(&far, far_, sizeof(far));
        result.is_zero = is_zero;
        // The reference asserts that a scale is not NaN.
        result.too_large = any(((far != 0) | (scale_ != scale_)) & !is_zero);
        const M negative = scale_ < 0.f;
        result.scale = L::select(is_zero, L::all(0.f), L::select(negative, -scale_, scale_));
        for (int k = 0; k < groups; ++k) {
            result.code[k] = L::select(is_zero, I{}, code_[k]);
        }
        const int all_signs = rules_.parity ? 127 : 255;
        for (int k = 0; k < part / 8; ++k) {
            const I signs = L::select(negative, ~signs_[k] & all_signs, signs_[k]);
            result.signs[k] = L::select(is_zero, I{}, signs);
        }
        return result;
    }

    const Grid & grid_;
    const GridRules & rules_;
    const F * weight_;
    F x_[part];  // without signs
    alignas(64) float x_by_lane_[L::width * part];
    alignas(64) float root_by_lane_[L::width * part];
    alignas(64) float values_[L::width << Book::bits];
    F weighted_x_[part];
    F max_;
    I signs_[part / 8];
    F scale_;
    I code_[groups];
    I on_grid_[groups];
    int32_t far_[L::width] = {};
};

// The lower bits of the scales, and d: ggml's nearest_int(0.5f * (scale / d - 1)) with d the
// largest scale over 31. Lanes without any scale get zeros.
template <typename L, int count>
inline typename L::I pack_part_scales(const typename L::F * scales, float fudge,
                                      typename L::I * integers, typename L::M * is_empty) {
    using F = typename L::F;
    using I = typename L::I;
    F max = L::all(0.f);
    for (int j = 0; j < count; ++j) {
        max = L::max(max, scales[j]);
    }
    *is_empty = max == 0.f;
    const F d = max / 31.f;
    const F inverse = 1.f / d;
    for (int j = 0; j < count; ++j) {
        const F l = L::nearest(0.5f * (inverse * scales[j] - 1.f), 0.f, 15.f);
        integers[j] = L::select(*is_empty, I{}, to_int(l));
    }
    return L::select(*is_empty, I{}, L::to_half(d * fudge));
}

template <typename L>
inline void clear(typename L::M is_empty, typename L::I * bytes, int count) {
    for (int i = 0; any(is_empty) && i < count; ++i) {
        bytes[i] = L::select(is_empty, typename L::I{}, bytes[i]);
    }
}

// The four bytes of a 32-bit integer, lowest first.
template <typename L>
inline void put_word(typename L::I word, typename L::I * bytes) {
    for (int i = 0; i < 4; ++i) {
        bytes[i] = word >> (8 * i) & 255;
    }
}

// importance * sqrt(sigma2 + x^2), or without importance average + x^2.
template <typename L, int part, bool weighted>
inline void grid_weights(const Super<L> & blocks, int first, typename L::F sigma2,
                         typename L::F average, typename L::F * weight) {
    if constexpr (weighted) {
        importance_weights<L, part>(blocks, first, sigma2, weight);
    } else {
        for (int i = 0; i < part; ++i) {
            weight[i] = average + blocks.x[first + i] * blocks.x[first + i];
        }
    }
}

struct Iq2Xxs {
    static constexpr int weights = kSuper;
    static constexpr int bytes = 66;
    using halves = Halves<0>;
    static constexpr GridRules rules{true, 1e-15f, 6, 0.1f, Refine::all};

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        using Book = Codebook<L, 8, 2>;
        const Grid & grid = grid_iq2_xxs();
        const F sigma2 = sum_of_squares<L>(blocks.x, kSuper) / 256.f;
        F scales[8], weight[32];
        I signs[8], integers[8];
        for (int j = 0; j < 8; ++j) {
            importance_weights<L, 32>(blocks, 32 * j, sigma2, weight);
            const auto part =
                GridSearch<L, Book, 32>(grid, rules, blocks.x + 32 * j, weight).run_from_scales();
            blocks.report(part.too_large);
            scales[j] = part.scale;
            signs[j] = I{};
            for (int k = 0; k < 4; ++k) {
                out[2 + 8 * j + k] = Book::index(grid, part.code[k]);
                signs[j] |= part.signs[k] << (7 * k);
            }
        }
        typename L::M is_empty;
        put_half<L>(pack_part_scales<L, 8>(scales, 1.f, integers, &is_empty), out);
        for (int j = 0; j < 8; ++j) {
            put_word<L>(signs[j] | integers[j] << 28, out + 2 + 8 * j + 4);
        }
        clear<L>(is_empty, out, bytes);
    }
};

// IQ2_XS and IQ2_S; the latter has all signs, a larger grid, and goes without importance too.
template <bool large>
struct Iq2Xs {
    static constexpr int weights = kSuper;
    static constexpr int bytes = large ? 82 : 74;
    using halves = Halves<0>;
    static constexpr GridRules rules{!large, large ? 1e-8f : 1e-15f, 9, 0.1f, Refine::those_off};

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        using Book = Codebook<L, 8, 2>;
        const Grid & grid = large ? grid_iq2_s() : grid_iq2_xs();
        const F squares = sum_of_squares<L>(blocks.x, kSuper);
        const F sigma2 = (large ? 2.f * squares : squares) / 256.f;
        F scales[16], weight[16];
        I integers[16], index[32];
        for (int j = 0; j < 16; ++j) {
            grid_weights<L, 16, weighted>(blocks, 16 * j, sigma2, 0.25f * sigma2, weight);
            const auto part = GridSearch<L, Book, 16>(grid, rules, blocks.x + 16 * j, weight).run();
            blocks.report(part.too_large);
            scales[j] = part.scale;
            for (int k = 2 * j; k < 2 * j + 2; ++k) {
                index[k] = Book::index(grid, part.code[k - 2 * j]);
                const I signs = part.signs[k - 2 * j];
                if constexpr (large) {
                    out[2 + k] = index[k] & 255;
                    out[34 + k] = signs;
                } else {
                    out[2 + 2 * k] = index[k] & 255;
                    out[3 + 2 * k] = index[k] >> 8 | signs << 1;
                }
            }
        }
        typename L::M is_empty;
        put_half<L>(pack_part_scales<L, 16>(scales, large ? 0.9875f : 1.f, integers, &is_empty),
                    out);
        for (int j = 0; j < 8; ++j) {
            if constexpr (large) {
                const I * q = index + 4 * j;
                out[66 + j] = q[0] >> 8 | q[1] >> 8 << 2 | q[2] >> 8 << 4 | q[3] >> 8 << 6;
            }
            out[bytes - 8 + j] = integers[2 * j] | integers[2 * j + 1] << 4;
        }
        if constexpr (!large) {
            clear<L>(is_empty, out, bytes);
        }
    }
};

struct Iq3Xxs {
    static constexpr int weights = kSuper;
    static constexpr int bytes = 98;
    using halves = Halves<0>;
    static constexpr GridRules rules{true, 1e-8f, 15, 0.2f, Refine::those_off};

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        using Book = Codebook<L, 4, 3>;
        const Grid & grid = grid_iq3_xxs();
        const F sigma2 = 2.f * sum_of_squares<L>(blocks.x, kSuper) / 256.f;
        F scales[8], weight[32];
        I signs[8], integers[8];
        for (int j = 0; j < 8; ++j) {
            grid_weights<L, 32, weighted>(blocks, 32 * j, sigma2, L::all(0.f), weight);
            const auto part = GridSearch<L, Book, 32>(grid, rules, blocks.x + 32 * j, weight).run();
            blocks.report(part.too_large);
            scales[j] = part.scale;
            for (int k = 0; k < 8; ++k) {
                out[2 + 8 * j + k] = Book::index(grid, part.code[k]);
            }
            signs[j] =
                part.signs[0] | part.signs[1] << 7 | part.signs[2] << 14 | part.signs[3] << 21;
        }
        typename L::M is_empty;
        put_half<L>(pack_part_scales<L, 8>(scales, 1.0125f, integers, &is_empty), out);
        for (int j = 0; j < 8; ++j) {
            put_word<L>(signs[j] | integers[j] << 28, out + 66 + 4 * j);
        }
        clear<L>(is_empty, out, bytes);
    }
};

struct Iq3S {
    static constexpr int weights = kSuper;
    static constexpr int bytes = 110;
    using halves = Halves<0>;
    static constexpr GridRules rules{false, 0.f, 9, 0.2f, Refine::all_if_off};

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        using Book = Codebook<L, 4, 3>;
        const Grid & grid = grid_iq3_s();
        const F sigma2 = 2.f * sum_of_squares<L>(blocks.x, kSuper) / 256.f;
        F scales[8], weight[32];
        I integers[8];
        I place{};
        for (int i = 2; i < bytes; ++i) {
            out[i] = I{};
        }
        for (int j = 0; j < 8; ++j) {
            grid_weights<L, 32, weighted>(blocks, 32 * j, sigma2, L::all(0.f), weight);
            const auto part = GridSearch<L, Book, 32>(grid, rules, blocks.x + 32 * j, weight).run();
            blocks.report(part.too_large);
            scales[j] = part.scale;
            I index[8];
            I high{};
            for (int k = 0; k < 8; ++k) {
                index[k] = Book::index(grid, part.code[k]);
                high |= index[k] >> 8 << k;
            }
            out[66 + j] = high;
            // The reference does not step over the place of a part that is zero.
            for (int t = any(place != j) ? 0 : j; t <= j; ++t) {
                const auto here = place == t;
                put<L, 8>(here, index, out + 2 + 8 * t);
                put<L, 4>(here, part.signs, out + 74 + 4 * t);
            }
            place += L::select(part.is_zero, I{}, L::all(1));
        }
        typename L::M is_empty;
        put_half<L>(pack_part_scales<L, 8>(scales, 1.033f, integers, &is_empty), out);
        for (int j = 0; j < 4; ++j) {
            out[106 + j] = integers[2 * j] | integers[2 * j + 1] << 4;
        }
    }

  private:
    template <typename L, int count>
    static void put(typename L::M here, const typename L::I * values, typename L::I * target) {
        for (int k = 0; k < count; ++k) {
            target[k] = L::select(here, values[k] & 255, target[k]);
        }
    }
};

}  // namespace
}  // namespace apex
