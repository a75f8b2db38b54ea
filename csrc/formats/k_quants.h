// Super-blocks of 256 weights: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K. A lane owns a super-block.
//
// Byte layouts, d and dmin being binary16:
//   Q2_K  84   scales 16 (scale | min << 4), qs 64, d, dmin
//   Q3_K 110   hmask 32, qs 64, scales 12 (16 x 6 bits), d
//   Q4_K 144   d, dmin, scales 12 (8 x 6-bit scale, 8 x 6-bit min), qs 128
//   Q5_K 176   d, dmin, scales 12, qh 32, qs 128
//   Q6_K 210   ql 128, qh 64, scales 16 (signed), d
// Equal to ggml's quantize_row_q2_K_ref and quantize_row_q2_K_impl (with importance), and so on.
#pragma once

#include "formats/format.h"
#include "searches/scales.h"

namespace apex {
namespace {

constexpr int kSuper = 256;

struct SuperFormat : FormatDefaults {
    static constexpr int weights = kSuper;
};

template <typename L, int count, typename Weights>
APEX_HOST_DEVICE inline typename L::F sum_of_squares(Weights x) {
    auto sum = L::all(0.f);
    for (int i = 0; i < count; ++i) {
        sum += x[i] * x[i];
    }
    return sum;
}

// From importance to importance * sqrt(sigma2 + x^2); returns the sum.
template <typename L, int count>
APEX_HOST_DEVICE inline typename L::F importance_weights(const typename L::F * x,
                                                         typename L::F sigma2,
                                                         typename L::F * weight) {
    auto sum = L::all(0.f);
    APEX_UNROLL
    for (int i = 0; i < count; ++i) {
        weight[i] *= square_root(sigma2 + x[i] * x[i]);
        sum += weight[i];
    }
    return sum;
}

// Two-bit fields: byte l of a half holds the elements l, l + 32, l + 64 and l + 96.
template <typename Levels, typename Out>
APEX_HOST_DEVICE inline void pack_two_bits(Levels l, Out bytes) {
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 32; ++i) {
            const auto q = l + 128 * half + i;
            bytes[32 * half + i] =
                (q[0] & 3) | (q[32] & 3) << 2 | (q[64] & 3) << 4 | (q[96] & 3) << 6;
        }
    }
}

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

struct Q2K : SuperFormat {
    static constexpr int bytes = 84;
    static constexpr int parts = 16;
    using halves = Halves<80, 82>;

    template <typename L>
    using Found = AffinePart<L>;
    template <typename L>
    using Scales = AffineScales<L, 16>;

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        return weighted ? sum_of_squares<L, kSuper>(x) / 256.f : L::all(0.f);
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        typename L::F * weight, typename L::F sigma2,
                                        Found<L> * found, typename L::I *) {
        if constexpr (weighted) {
            found->sum = importance_weights<L, 16>(x, sigma2, weight);
            found->affine = search_affine<L, 16>(x, weight, 3, {-0.9f, 0.05f, 36, false});
        } else {
            APEX_UNROLL
            for (int i = 0; i < 16; ++i) {
                weight[i] = L::abs(x[i]);
            }
            found->sum = L::all(0.f);
            found->affine = search_affine<L, 16>(x, weight, 3, {-0.5f, 0.1f, 15, true});
        }
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found,
                                         Scales<L> * scales, Out out) {
        typename L::I ls[16], lm[16];
        const auto rounded = round_affine<L, 16, weighted>(found, 15, ls, lm);
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            const auto byte = (ls[j] | (lm[j] & 15) << 4) & 255;
            out[j] = byte;
            scales->scale[j] = rounded.d * to_float(byte & 15);
            scales->min[j] = rounded.dmin * to_float(byte >> 4);
        }
        put_half(rounded.half_d, out + 80);
        put_half(rounded.half_dmin, out + 82);
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> & scales, int j,
                                       typename L::I * l) {
        requantize<L, 16>(x, scales.scale[j], scales.min[j], found.affine, 3, l);
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        pack_two_bits(l, out + 16);
    }
};

struct Q3K : SuperFormat {
    static constexpr int bytes = 110;
    static constexpr int parts = 16;
    static constexpr bool leaves_levels = true;
    using halves = Halves<108>;

    template <typename L>
    struct Found {
        typename L::F scale;
        typename L::F sum;  // of the weights
    };
    template <typename L>
    struct Scales {
        typename L::F scale[16];
    };

    // Each step of the descent waits for the one before: a processor has several under way.
    template <typename L, bool weighted>
    APEX_HOST_DEVICE static constexpr int together() {
        return weighted || L::width == 1 ? 1 : 4;
    }

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        return weighted ? 2.f * sum_of_squares<L, kSuper>(x) / 256.f : L::all(0.f);
    }

    // Leaves levels, for scales that become zero.
    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        [[maybe_unused]] typename L::F * weight,
                                        [[maybe_unused]] typename L::F sigma2, Found<L> * found,
                                        typename L::I * l) {
        if constexpr (weighted) {
            found->sum = importance_weights<L, 16>(x, sigma2, weight);
            const auto symmetric = search_symmetric<L, 16, true>(x, weight, 4);
            found->scale = symmetric.scale;
            APEX_UNROLL
            for (int i = 0; i < 16; ++i) {
                l[i] = to_int(symmetric.stored(x[i], 4));
            }
        } else {
            constexpr int count = L::width == 1 ? 1 : 4;
            typename L::F kept[16 * count], scales[count];
            search_descent<L, 16, count>(x, 4, kept, scales);
            for (int j = 0; j < count; ++j) {
                found[j] = {scales[j], L::all(0.f)};
            }
            APEX_UNROLL
            for (int i = 0; i < 16 * count; ++i) {
                l[i] = to_int(kept[i]);
            }
        }
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found,
                                         Scales<L> * result, Out out) {
        using F = typename L::F;
        using I = typename L::I;
        F scales[16], sums[16];
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            scales[j] = found[j].scale;
            sums[j] = found[j].sum;
        }
        I integers[16];
        I half;
        if constexpr (weighted) {
            const auto symmetric = search_symmetric<L, 16, true>(scales, sums, 32);
            APEX_UNROLL
            for (int j = 0; j < 16; ++j) {
                integers[j] = to_int(symmetric.stored(scales[j], 32));
            }
            half = L::to_half(symmetric.scale);
        } else {
            F amax;
            const F max = extreme<L, 16>(scales, &amax);
            const auto is_zero = max == 0.f;
            const F inverse = -32.f / max;
            APEX_UNROLL
            for (int j = 0; j < 16; ++j) {
                // The reference keeps nearest_int in a signed byte before it clamps.
                const I byte = L::signed_byte(to_int(L::nearest(inverse * scales[j])));
                const I clamped = L::max(L::all(-32), L::min(L::all(31), byte)) + 32;
                integers[j] = L::select(is_zero, I{}, clamped);
            }
            half = L::to_half(L::select(is_zero, L::all(0.f), 1.f / inverse));
        }
        const F d = L::from_half(half);
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            result->scale[j] = d * to_float(integers[j] - 32);
        }
        APEX_UNROLL
        for (int j = 0; j < 8; ++j) {
            out[96 + j] = (integers[j] & 15) | (integers[j + 8] & 15) << 4;
        }
        APEX_UNROLL
        for (int j = 0; j < 4; ++j) {
            out[104 + j] = integers[j] >> 4 | integers[j + 4] >> 4 << 2 |
                           integers[j + 8] >> 4 << 4 | integers[j + 12] >> 4 << 6;
        }
        put_half(half, out + 108);
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x, const Found<L> &,
                                       const Scales<L> & scales, int j, typename L::I * l) {
        const auto scale = scales.scale[j];
        const auto is_zero = scale == 0.f;
        APEX_UNROLL
        for (int i = 0; i < 16; ++i) {
            const auto value = to_int(L::nearest(x[i] / scale, -4.f, 3.f)) + 4;
            l[i] = L::select(is_zero, l[i], value);
        }
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        for (int i = 0; i < 32; ++i) {
            auto mask = l[i] >> 2;
            for (int bit = 1; bit < 8; ++bit) {
                mask |= l[32 * bit + i] >> 2 << bit;
            }
            out[i] = mask;
        }
        pack_two_bits(l, out + 32);
    }
};

// Q4_K and Q5_K differ in the number of levels and in where the fifth bit goes.
template <int limit>
struct Q45K : SuperFormat {
    static constexpr bool five = limit == 31;
    static constexpr int bytes = five ? 176 : 144;
    static constexpr int parts = 8;
    using halves = Halves<0, 2>;

    template <typename L>
    using Found = AffinePart<L>;
    template <typename L>
    using Scales = AffineScales<L, 8>;

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2([[maybe_unused]] Weights x) {
        return weighted ? 2.f * sum_of_squares<L, kSuper>(x) / 256.f : L::all(0.f);
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        typename L::F * weight, typename L::F sigma2,
                                        Found<L> * found, typename L::I *) {
        if constexpr (weighted) {
            found->sum = importance_weights<L, 32>(x, sigma2, weight);
            found->affine = search_affine<L, 32>(x, weight, limit, {-0.9f, 0.05f, 36, false});
        } else {
            const auto average = square_root(sum_of_squares<L, 32>(x) / 32.f);
            APEX_UNROLL
            for (int i = 0; i < 32; ++i) {
                weight[i] = average + L::abs(x[i]);
            }
            constexpr AffineSteps steps =
                five ? AffineSteps{-0.5f, 0.1f, 15, false} : AffineSteps{-1.f, 0.1f, 20, false};
            found->sum = L::all(0.f);
            found->affine = search_affine<L, 32>(x, weight, limit, steps);
        }
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found,
                                         Scales<L> * scales, Out out) {
        using I = typename L::I;
        I ls[8], lm[8];
        const auto rounded = round_affine<L, 8, weighted>(found, 63, ls, lm);
        put_half(rounded.half_d, out);
        put_half(rounded.half_dmin, out + 2);
        APEX_UNROLL
        for (int j = 0; j < 8; ++j) {
            if (five || !weighted) {  // Q4_K with importance alone does not clamp
                ls[j] = L::min(L::all(63), ls[j] & 255);
                lm[j] = L::min(L::all(63), lm[j] & 255);
            }
        }
        I packed[12];
        APEX_UNROLL
        for (int j = 0; j < 4; ++j) {
            packed[j] = (ls[j] | ls[j + 4] >> 4 << 6) & 255;
            packed[4 + j] = (lm[j] | lm[j + 4] >> 4 << 6) & 255;
            packed[8 + j] = (ls[j + 4] & 15) | (lm[j + 4] & 15) << 4;
        }
        APEX_UNROLL
        for (int j = 0; j < 12; ++j) {
            out[4 + j] = packed[j];
        }
        // Read back, as the reference does: without a clamp a value may not have fitted.
        APEX_UNROLL
        for (int j = 0; j < 8; ++j) {
            const I scale = j < 4 ? packed[j] & 63 : (packed[4 + j] & 15) | packed[j - 4] >> 6 << 4;
            const I min = j < 4 ? packed[4 + j] & 63 : packed[4 + j] >> 4 | packed[j] >> 6 << 4;
            scales->scale[j] = rounded.d * to_float(scale);
            scales->min[j] = rounded.dmin * to_float(min);
        }
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> & scales, int j,
                                       typename L::I * l) {
        requantize<L, 32>(x, scales.scale[j], scales.min[j], found.affine, limit, l);
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        if constexpr (five) {
            for (int i = 0; i < 32; ++i) {
                auto high = l[i] >> 4;
                for (int j = 1; j < 8; ++j) {
                    high |= l[32 * j + i] >> 4 << j;
                }
                out[16 + i] = high;
            }
        }
        const Out qs = out + (five ? 48 : 16);
        for (int pair = 0; pair < 4; ++pair) {
            for (int i = 0; i < 32; ++i) {
                const auto q = l + 64 * pair + i;
                qs[32 * pair + i] = (q[0] & 15) | (q[32] & 15) << 4;
            }
        }
    }
};

struct Q6K : SuperFormat {
    static constexpr int bytes = 210;
    static constexpr int parts = 16;
    using halves = Halves<208>;

    template <typename L>
    using Found = Symmetric<L>;
    template <typename L>
    struct Scales {
        typename L::F scale[16];
        typename L::M is_empty;  // the whole block becomes zero bytes
    };

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static bool search(const NoTables &, const typename L::F * x,
                                        typename L::F * weight, typename L::F, Found<L> * found,
                                        typename L::I *) {
        *found = search_symmetric<L, 16, weighted>(x, weight, 32);
        return false;
    }

    template <typename L, bool weighted, typename Out>
    APEX_HOST_DEVICE static bool combine(const NoTables &, const typename L::F *,
                                         const typename L::F *, const Found<L> * found,
                                         Scales<L> * result, Out out) {
        using F = typename L::F;
        using I = typename L::I;
        F scales[16];
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            scales[j] = found[j].scale;
        }
        F amax;
        const F max = extreme<L, 16>(scales, &amax);
        const auto is_empty = amax < kAllZero;
        const F inverse = -128.f / max;
        const I half = L::select(is_empty, I{}, L::to_half(1.f / inverse));
        const F d = L::from_half(half);
        APEX_UNROLL
        for (int j = 0; j < 16; ++j) {
            const I integer = L::min(L::all(127), to_int(L::nearest(inverse * scales[j])));
            out[192 + j] = L::select(is_empty, I{}, integer & 255);
            result->scale[j] = d * to_float(L::signed_byte(integer));
        }
        result->is_empty = is_empty;
        put_half(half, out + 208);
        return false;
    }

    template <typename L, bool weighted>
    APEX_HOST_DEVICE static void round(const NoTables &, const typename L::F * x,
                                       const Found<L> & found, const Scales<L> & scales, int j,
                                       typename L::I * l) {
        const auto scale = scales.scale[j];
        const auto is_zero = scale == 0.f;
        const bool some_zero = any(is_zero);
        APEX_UNROLL
        for (int i = 0; i < 16; ++i) {
            auto value = L::nearest(x[i] / scale, -32.f, 31.f) + 32.f;
            if (some_zero) {
                value = L::select(is_zero, found.stored(x[i], 32), value);
                value = L::select(scales.is_empty, L::all(0.f), value);
            }
            l[i] = to_int(value);
        }
    }

    template <typename Levels, typename Out>
    APEX_HOST_DEVICE static void pack(Levels l, Out out) {
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 32; ++i) {
                const auto q = l + 128 * half + i;
                const Out low = out + 64 * half + i;
                low[0] = (q[0] & 15) | (q[64] & 15) << 4;
                low[32] = (q[32] & 15) | (q[96] & 15) << 4;
                out[128 + 32 * half + i] =
                    q[0] >> 4 | q[32] >> 4 << 2 | q[64] >> 4 << 4 | q[96] >> 4 << 6;
            }
        }
    }
};

}  // namespace
}  // namespace apex
