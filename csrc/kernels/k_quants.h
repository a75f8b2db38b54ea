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

#include "kernels/batch.h"
#include "kernels/search.h"

namespace apex {
namespace {

constexpr int kSuper = 256;

template <typename L>
using Super = Blocks<L, kSuper>;

template <typename L>
inline typename L::F sum_of_squares(const typename L::F * x, int count) {
    auto sum = L::all(0.f);
    for (int i = 0; i < count; ++i) {
        sum += x[i] * x[i];
    }
    return sum;
}

// importance * sqrt(sigma2 + x^2), and its sum.
template <typename L, int count, typename B>
inline typename L::F importance_weights(const B & blocks, int first, typename L::F sigma2,
                                        typename L::F * weight) {
    blocks.template load_importance<count>(first, weight);
    auto sum = L::all(0.f);
    for (int i = 0; i < count; ++i) {
        const auto x = blocks.x[first + i];
        weight[i] *= square_root(sigma2 + x * x);
        sum += weight[i];
    }
    return sum;
}

// Two-bit fields: byte l of a half holds the elements l, l + 32, l + 64 and l + 96.
template <typename L>
inline void pack_two_bits(const typename L::I * l, typename L::I * bytes) {
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 32; ++i) {
            const auto * q = l + 128 * half + i;
            bytes[32 * half + i] =
                (q[0] & 3) | (q[32] & 3) << 2 | (q[64] & 3) << 4 | (q[96] & 3) << 6;
        }
    }
}

// The second pass over a sub-block: with the final scale d (and min dm), or, where d is zero, with
// what the search had left.
template <typename L, int count>
inline void requantize(const typename L::F * x, typename L::F d, typename L::F dm,
                       const Affine<L> & found, int limit, typename L::I * l) {
    const auto is_zero = d == 0.f;
    const bool some_zero = any(is_zero);
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
inline typename L::F round_scales(const typename L::F * x, int limit, typename L::I * integers) {
    auto max = L::all(0.f);
    for (int j = 0; j < count; ++j) {
        max = L::max(x[j], max);
    }
    const auto inverse = L::select(max > 0.f, static_cast<float>(limit) / max, L::all(0.f));
    for (int j = 0; j < count; ++j) {
        integers[j] = to_int(L::nearest(inverse * x[j]));
    }
    return max / static_cast<float>(limit);
}

struct Q2K {
    static constexpr int weights = kSuper;
    static constexpr int bytes = 84;
    using halves = Halves<80, 82>;

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        Affine<L> found[16];
        F scales[16], mins[16], sums[16], weight[16];
        const F sigma2 = weighted ? sum_of_squares<L>(blocks.x, kSuper) / 256.f : L::all(0.f);
        for (int j = 0; j < 16; ++j) {
            const F * x = blocks.x + 16 * j;
            if constexpr (weighted) {
                sums[j] = importance_weights<L, 16>(blocks, 16 * j, sigma2, weight);
                found[j] = search_affine<L, 16>(x, weight, 3, {-0.9f, 0.05f, 36, false});
            } else {
                for (int i = 0; i < 16; ++i) {
                    weight[i] = L::abs(x[i]);
                }
                found[j] = search_affine<L, 16>(x, weight, 3, {-0.5f, 0.1f, 15, true});
            }
            scales[j] = found[j].scale;
            mins[j] = found[j].min;
        }
        I ls[16], lm[16];
        F d, dmin;
        if constexpr (weighted) {
            d = quantize_scales<L, 16>(scales, sums, 15, ls);
            dmin = quantize_scales<L, 16>(mins, sums, 15, lm);
        } else {
            d = round_scales<L, 16>(scales, 15, ls);
            dmin = round_scales<L, 16>(mins, 15, lm);
        }
        const I half_d = L::to_half(d);
        const I half_dmin = L::to_half(dmin);
        d = L::from_half(half_d);
        dmin = L::from_half(half_dmin);
        I l[kSuper];
        for (int j = 0; j < 16; ++j) {
            out[j] = (ls[j] | (lm[j] & 15) << 4) & 255;
            requantize<L, 16>(blocks.x + 16 * j, d * to_float(out[j] & 15),
                              dmin * to_float(out[j] >> 4), found[j], 3, l + 16 * j);
        }
        pack_two_bits<L>(l, out + 16);
        put_half<L>(half_d, out + 80);
        put_half<L>(half_dmin, out + 82);
    }
};

struct Q3K {
    static constexpr int weights = kSuper;
    static constexpr int bytes = 110;
    using halves = Halves<108>;

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        F scales[16];
        F kept[kSuper];  // what the searches leave, for scales that become zero
        I integers[16];
        I half;
        if constexpr (weighted) {
            const F sigma2 = 2.f * sum_of_squares<L>(blocks.x, kSuper) / 256.f;
            F sums[16], weight[16];
            for (int j = 0; j < 16; ++j) {
                sums[j] = importance_weights<L, 16>(blocks, 16 * j, sigma2, weight);
                const auto found = search_symmetric<L, 16>(blocks.x + 16 * j, weight, 4);
                scales[j] = found.scale;
                for (int i = 0; i < 16; ++i) {
                    kept[16 * j + i] = found.stored(blocks.x[16 * j + i], 4);
                }
            }
            const auto found = search_symmetric<L, 16>(scales, sums, 32);
            for (int j = 0; j < 16; ++j) {
                integers[j] = to_int(found.stored(scales[j], 32));
            }
            half = L::to_half(found.scale);
        } else {
            for (int j = 0; j < 16; j += 4) {
                search_descent<L, 16, 4>(blocks.x + 16 * j, 4, kept + 16 * j, scales + j);
            }
            F amax;
            const F max = extreme<L>(scales, 16, &amax);
            const auto is_zero = max == 0.f;
            const F inverse = -32.f / max;
            for (int j = 0; j < 16; ++j) {
                // The reference keeps nearest_int in a signed byte before it clamps.
                const I byte = L::signed_byte(to_int(L::nearest(inverse * scales[j])));
                const I clamped = L::max(L::all(-32), L::min(L::all(31), byte)) + 32;
                integers[j] = L::select(is_zero, I{}, clamped);
            }
            half = L::to_half(L::select(is_zero, L::all(0.f), 1.f / inverse));
        }
        const F d = L::from_half(half);
        I l[kSuper];
        for (int j = 0; j < 16; ++j) {
            const F scale = d * to_float(integers[j] - 32);
            const auto is_zero = scale == 0.f;
            for (int i = 16 * j; i < 16 * j + 16; ++i) {
                const F value = L::nearest(blocks.x[i] / scale, -4.f, 3.f) + 4.f;
                l[i] = to_int(L::select(is_zero, kept[i], value));
            }
        }
        for (int i = 0; i < 32; ++i) {
            I mask{};
            for (int bit = 0; bit < 8; ++bit) {
                mask |= l[32 * bit + i] >> 2 << bit;
            }
            out[i] = mask;
        }
        pack_two_bits<L>(l, out + 32);
        for (int j = 0; j < 8; ++j) {
            out[96 + j] = (integers[j] & 15) | (integers[j + 8] & 15) << 4;
        }
        for (int j = 0; j < 4; ++j) {
            out[104 + j] = integers[j] >> 4 | integers[j + 4] >> 4 << 2 |
                           integers[j + 8] >> 4 << 4 | integers[j + 12] >> 4 << 6;
        }
        put_half<L>(half, out + 108);
    }
};

// Q4_K and Q5_K differ in the number of levels and in where the fifth bit goes.
template <int limit>
struct Q45K {
    static constexpr bool five = limit == 31;
    static constexpr int weights = kSuper;
    static constexpr int bytes = five ? 176 : 144;
    using halves = Halves<0, 2>;

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        Affine<L> found[8];
        F scales[8], mins[8], sums[8], weight[32];
        const F sigma2 = weighted ? 2.f * sum_of_squares<L>(blocks.x, kSuper) / 256.f : L::all(0.f);
        for (int j = 0; j < 8; ++j) {
            const F * x = blocks.x + 32 * j;
            if constexpr (weighted) {
                sums[j] = importance_weights<L, 32>(blocks, 32 * j, sigma2, weight);
                found[j] = search_affine<L, 32>(x, weight, limit, {-0.9f, 0.05f, 36, false});
            } else {
                const F average = square_root(sum_of_squares<L>(x, 32) / 32.f);
                for (int i = 0; i < 32; ++i) {
                    weight[i] = average + L::abs(x[i]);
                }
                const AffineSteps steps =
                    five ? AffineSteps{-0.5f, 0.1f, 15, false} : AffineSteps{-1.f, 0.1f, 20, false};
                found[j] = search_affine<L, 32>(x, weight, limit, steps);
            }
            scales[j] = found[j].scale;
            mins[j] = found[j].min;
        }
        I ls[8], lm[8];
        F d, dmin;
        if constexpr (weighted) {
            d = quantize_scales<L, 8>(scales, sums, 63, ls);
            dmin = quantize_scales<L, 8>(mins, sums, 63, lm);
        } else {
            d = round_scales<L, 8>(scales, 63, ls);
            dmin = round_scales<L, 8>(mins, 63, lm);
        }
        const I half_d = L::to_half(d);
        const I half_dmin = L::to_half(dmin);
        put_half<L>(half_d, out);
        put_half<L>(half_dmin, out + 2);
        for (int j = 0; j < 8; ++j) {
            if (five || !weighted) {  // Q4_K with importance alone does not clamp
                ls[j] = L::min(L::all(63), ls[j] & 255);
                lm[j] = L::min(L::all(63), lm[j] & 255);
            }
        }
        for (int j = 0; j < 4; ++j) {
            out[4 + j] = (ls[j] | ls[j + 4] >> 4 << 6) & 255;
            out[8 + j] = (lm[j] | lm[j + 4] >> 4 << 6) & 255;
            out[12 + j] = (ls[j + 4] & 15) | (lm[j + 4] & 15) << 4;
        }
        d = L::from_half(half_d);
        dmin = L::from_half(half_dmin);
        I l[kSuper];
        for (int j = 0; j < 8; ++j) {
            // Read back, as the reference does: without a clamp a value may not have fitted.
            const I scale = j < 4 ? out[4 + j] & 63 : (out[8 + j] & 15) | out[j] >> 6 << 4;
            const I min = j < 4 ? out[8 + j] & 63 : out[8 + j] >> 4 | out[4 + j] >> 6 << 4;
            requantize<L, 32>(blocks.x + 32 * j, d * to_float(scale), dmin * to_float(min),
                              found[j], limit, l + 32 * j);
        }
        I * qs = out + 16;
        if constexpr (five) {
            for (int i = 0; i < 32; ++i) {
                I high{};
                for (int j = 0; j < 8; ++j) {
                    high |= l[32 * j + i] >> 4 << j;
                }
                out[16 + i] = high;
            }
            qs += 32;
        }
        for (int pair = 0; pair < 4; ++pair) {
            for (int i = 0; i < 32; ++i) {
                const I * q = l + 64 * pair + i;
                qs[32 * pair + i] = (q[0] & 15) | (q[32] & 15) << 4;
            }
        }
    }
};

struct Q6K {
    static constexpr int weights = kSuper;
    static constexpr int bytes = 210;
    using halves = Halves<208>;

    template <typename L, bool weighted>
    static void quantize(const Super<L> & blocks, typename L::I * out) {
        using F = typename L::F;
        using I = typename L::I;
        Symmetric<L> found[16];
        F scales[16], weight[16];
        for (int j = 0; j < 16; ++j) {
            if constexpr (weighted) {
                blocks.template load_importance<16>(16 * j, weight);
            }
            found[j] = search_symmetric<L, 16>(blocks.x + 16 * j, weighted ? weight : nullptr, 32);
            scales[j] = found[j].scale;
        }
        F amax;
        const F max = extreme<L>(scales, 16, &amax);
        const auto is_empty = amax < kAllZero;  // the whole block becomes zero bytes
        const F inverse = -128.f / max;
        const I half = L::select(is_empty, I{}, L::to_half(1.f / inverse));
        const F d = L::from_half(half);
        I l[kSuper];
        for (int j = 0; j < 16; ++j) {
            const I integer = L::min(L::all(127), to_int(L::nearest(inverse * scales[j])));
            out[192 + j] = L::select(is_empty, I{}, integer & 255);
            const F scale = d * to_float(L::signed_byte(integer));
            const auto is_zero = scale == 0.f;
            const bool some_zero = any(is_zero);
            for (int i = 16 * j; i < 16 * j + 16; ++i) {
                F value = L::nearest(blocks.x[i] / scale, -32.f, 31.f) + 32.f;
                if (some_zero) {
                    value = L::select(is_zero, found[j].stored(blocks.x[i], 32), value);
                    value = L::select(is_empty, L::all(0.f), value);
                }
                l[i] = to_int(value);
            }
        }
        for (int half_block = 0; half_block < 2; ++half_block) {
            for (int i = 0; i < 32; ++i) {
                const I * q = l + 128 * half_block + i;
                I * low = out + 64 * half_block + i;
                low[0] = (q[0] & 15) | (q[64] & 15) << 4;
                low[32] = (q[32] & 15) | (q[96] & 15) << 4;
                out[128 + 32 * half_block + i] =
                    q[0] >> 4 | q[32] >> 4 << 2 | q[64] >> 4 << 4 | q[96] >> 4 << 6;
            }
        }
        put_half<L>(half, out + 208);
    }
};

}  // namespace
}  // namespace apex
