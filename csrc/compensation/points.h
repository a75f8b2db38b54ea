// How levels are chosen under an objective where a codebook couples them: IQ1, IQ2, IQ3. All points
// are tried, through tables of what the two halves of a point would cost.
#pragma once

#include "compensation/tile.h"

namespace apex {
namespace {

// The best points for eight weights under one scale.
template <typename L, typename Codec>
class PointSearch {
  public:
    using F = typename L::F;
    using I = typename L::I;
    using M = typename L::M;
    static constexpr int group = Codec::group;
    static constexpr int groups = 8 / group;
    static constexpr int half = group / 2;
    static constexpr int digits = group == 8 ? 3 : 8;
    static constexpr int halves = group == 8 ? 81 : 64;

    I point[groups];
    I signs;
    F value[8];  // of the levels, with signs
    F cost;      // the weighted squared error, less what it would be at scale zero

    PointSearch() : points_(Codec::points()) {}

    // down: of IQ1, whether levels are moved down; elsewhere of no meaning.
    void run(const F * target, const F * weight, F scale, M down) {
        signs = I{};
        for (int i = 0; i < 8; ++i) {
            if constexpr (Codec::shift != Shift::none) {
                square_[i] = weight[i] * scale * scale;
                linear_[i] = 2.f * weight[i] * scale * target[i];
            } else {
                const M negative = target[i] < 0.f;
                signs |= L::select(negative, L::all(1 << i), I{});
                square_[i] = weight[i] * scale * scale;
                linear_[i] = 2.f * weight[i] * scale * L::abs(target[i]);
            }
        }
        move_ = L::select(down, L::all(-IQ1S_DELTA), L::all(IQ1S_DELTA));
        cost = L::all(0.f);
        F flipped = L::all(3e38f);  // what is added where a sign has to be turned
        I flipped_point[groups];
        for (int g = 0; g < groups; ++g) {
            F straight, turned;
            search(g, &straight, &point[g], &turned, &flipped_point[g]);
            cost += straight;
            const F extra = turned - straight;
            if constexpr (Codec::parity && groups == 2) {
                // One of both groups is turned: the one where that costs less.
                const M cheaper = extra < flipped;
                flipped_at_ = g == 0 ? I{} : L::select(cheaper, L::all(1), flipped_at_);
            }
            flipped = L::min(extra, flipped);
        }
        if constexpr (Codec::parity) {
            const M is_odd = is_odd_number(signs);
            for (int g = 0; g < groups; ++g) {
                const M here = groups == 1 ? is_odd : M(is_odd & (flipped_at_ == g));
                point[g] = L::select(here, flipped_point[g], point[g]);
            }
            cost += L::select(is_odd, flipped, L::all(0.f));
            take_values(down);
            turn_one(is_odd);
        } else {
            take_values(down);
        }
    }

    // What the points of a part's eights stand for, with signs.
    void take_values(M down) {
        for (int g = 0; g < groups; ++g) {
            for (int i = 0; i < group; ++i) {
                float lanes[L::width];
                int32_t index[L::width];
                std::memcpy(index, &point[g], sizeof(index));
                for (int lane = 0; lane < L::width; ++lane) {
                    lanes[lane] = points_.weights[index[lane] * group + i];
                }
                std::memcpy(&value[g * group + i], lanes, sizeof(lanes));
            }
        }
        for (int i = 0; i < 8; ++i) {
            if constexpr (Codec::shift != Shift::none) {
                value[i] += move_;
            } else {
                value[i] = L::select((signs & (1 << i)) != 0, -value[i], value[i]);
            }
        }
        if constexpr (Codec::shift != Shift::none) {
            signs = L::select(down, L::all(1), I{});
        }
    }

  private:
    static M is_odd_number(I bits) {
        bits ^= bits >> 4;
        bits ^= bits >> 2;
        bits ^= bits >> 1;
        return (bits & 1) != 0;
    }

    // Turns the sign of the weight where that costs least.
    void turn_one(M where) {
        F least = L::all(3e38f);
        I at{};
        for (int i = 0; i < 8; ++i) {
            const F here = linear_[i] * L::abs(value[i]);
            const M cheaper = here < least;
            least = L::select(cheaper, here, least);
            at = L::select(cheaper, L::all(i), at);
        }
        for (int i = 0; i < 8; ++i) {
            const M turn = where & (at == i);
            value[i] = L::select(turn, -value[i], value[i]);
            signs ^= L::select(turn, L::all(1 << i), I{});
        }
    }

    // The costs of one half of a group, by its number; `turned`: with the sign of one weight
    // turned.
    void tabulate(int first, F * straight, [[maybe_unused]] F * turned) {
        int count = 1;
        straight[0] = L::all(0.f);
        turned[0] = L::all(3e38f);
        for (int i = 0; i < half; ++i) {
            for (int digit = digits - 1; digit >= 0; --digit) {  // the first is overwritten last
                F value_ = L::all(points_.value[digit]);
                if constexpr (Codec::shift != Shift::none) {
                    value_ += move_;
                }
                const F linear = linear_[first + i] * value_;
                const F mine = square_[first + i] * value_ * value_ - linear;
                for (int k = 0; k < count; ++k) {
                    if constexpr (Codec::parity) {
                        turned[digit * count + k] =
                            L::min(turned[k] + mine, straight[k] + mine + 2.f * linear);
                    }
                    straight[digit * count + k] = straight[k] + mine;
                }
            }
            count *= digits;
        }
    }

    void search(int g, F * best, I * best_point, F * turned, I * turned_point) {
        F straight_[2][halves], turned_[2][Codec::parity ? halves : 1];
        for (int h = 0; h < 2; ++h) {
            tabulate(g * group + h * half, straight_[h], turned_[h]);
        }
        F least = L::all(3e38f), least_turned = L::all(3e38f);
        I at{}, at_turned{};
        for (int i = 0; i < points_.count; ++i) {
            const int low = points_.halves[2 * i];
            const int high = points_.halves[2 * i + 1];
            const F here = straight_[0][low] + straight_[1][high];
            const M better = here < least;
            least = L::select(better, here, least);
            at = L::select(better, L::all(i), at);
            if constexpr (Codec::parity) {
                const F with_turn = L::min(turned_[0][low] + straight_[1][high],
                                           straight_[0][low] + turned_[1][high]);
                const M better_turned = with_turn < least_turned;
                least_turned = L::select(better_turned, with_turn, least_turned);
                at_turned = L::select(better_turned, L::all(i), at_turned);
            }
        }
        *best = least;
        *best_point = at;
        *turned = least_turned;
        *turned_point = at_turned;
    }

    const Points & points_;
    F square_[8], linear_[8], move_;
    I flipped_at_{};
};

template <typename L, typename Codec>
class PointSteps {
  public:
    using F = typename L::F;
    using I = typename L::I;
    using M = typename L::M;
    using T = Tile<L, Codec>;
    static constexpr int part = T::part;

    PointSteps(const Compensation & job, T & tile) : job_(job), tile_(tile) {}

    // As in LevelSteps; within eight weights, each makes up for those before.
    F cost(int64_t first, const F * target, F s, F, int v) {
        F sum = L::all(0.f);
        for (int e = 0; e < part; e += 8) {
            F weight[8];
            weights_of(first + e, weight);
            search_best(first + e, target + e, weight, s, v);
            sum += search_.cost;
        }
        return sum;
    }

    void targets(int64_t first, const float * owed, int v, F * target) const {
        for (int e = 0; e < part; e += 8) {
            F error[8];
            for (int j = 0; j < 8; ++j) {
                error[j] = -T::load_lanes(owed, e + j, v);
                const float * factors = job_.factors + (first + e + j) * job_.columns + first + e;
                for (int k = 0; k < j; ++k) {
                    error[j] -= error[k] * factors[k];
                }
                target[e + j] = T::load_lanes(tile_.w, first + e + j, v) + error[j];
            }
        }
    }

    F feed(int64_t first, float * owed, F s, F, int v) {
        F sum = L::all(0.f);
        for (int e = 0; e < part; e += 8) {
            F target[part], weight[8];
            targets(first, owed, v, target);
            weights_of(first + e, weight);
            search_best(first + e, target + e, weight, s, v);
            keep(first + e, v, ~I{} != 0);
            for (int i = e; i < e + 8; ++i) {
                const int64_t column = first + i;
                const F error = s * search_.value[i - e] - T::load_lanes(tile_.w, column, v);
                T::store_lanes(error, tile_.error, column, v);
                const F miss = error + T::load_lanes(owed, i, v);
                sum += job_.pivots[column] * miss * miss;
                for (int k = i + 1; k < part; ++k) {
                    const float factor = job_.factors[(first + k) * job_.columns + column];
                    T::store_lanes(T::load_lanes(owed, k, v) + error * factor, owed, k, v);
                }
            }
        }
        return sum;
    }

    void descend(int64_t first, float * slope, F s, F, int v) {
        for (int e = 0; e < part; e += 8) {
            const int64_t column = first + e;
            const float * block = job_.moments + column * job_.columns + column;
            F target[8], weight[8], before[8];
            least_of(block, slope + e * T::tile, v, target);
            for (int i = 0; i < 8; ++i) {
                before[i] = T::load_lanes(tile_.value, column + i, v);
                target[i] += s * before[i];
                weight[i] = L::all(block[i * job_.columns + i]);
            }
            search_best(column, target, weight, s, v);
            F change[8];
            F gain = L::all(0.f);
            for (int i = 0; i < 8; ++i) {
                change[i] = s * (search_.value[i] - before[i]);
            }
            for (int i = 0; i < 8; ++i) {
                F row = 2.f * T::load_lanes(slope, e + i, v);
                for (int k = 0; k < 8; ++k) {
                    row += change[k] * block[i * job_.columns + k];
                }
                gain += change[i] * row;
            }
            const M better = gain < 0.f;
            keep(column, v, better);
            for (int i = 0; i < 8; ++i) {
                change[i] = L::select(better, change[i], L::all(0.f));
            }
            for (int k = 0; k < part; ++k) {
                F sum = T::load_lanes(slope, k, v);
                for (int i = 0; i < 8; ++i) {
                    sum += change[i] * job_.moments[(column + i) * job_.columns + first + k];
                }
                T::store_lanes(sum, slope, k, v);
            }
        }
    }

  private:
    // The diagonal of what the objective is in eight weights, once those after make up for them.
    void weights_of(int64_t first, F * weight) const {
        for (int j = 0; j < 8; ++j) {
            float sum = job_.pivots[first + j];
            for (int m = j + 1; m < 8; ++m) {
                const float factor = job_.factors[(first + m) * job_.columns + first + j];
                sum += factor * factor * job_.pivots[first + m];
            }
            weight[j] = L::all(sum);
        }
    }

    // Where the objective would be least in eight weights if they were free, as a change: solves
    // block * change = -slope by elimination; the block is positive definite.
    void least_of(const float * block, const float * slope, int v, F * change) const {
        float a[8][8];
        for (int i = 0; i < 8; ++i) {
            for (int k = 0; k < 8; ++k) {
                a[i][k] = block[i * job_.columns + k];
            }
            change[i] = -T::load_lanes(slope, i, v);
        }
        for (int i = 0; i < 8; ++i) {
            const float inverse = 1.f / a[i][i];
            for (int r = i + 1; r < 8; ++r) {
                const float factor = a[r][i] * inverse;
                for (int k = i; k < 8; ++k) {
                    a[r][k] -= factor * a[i][k];
                }
                change[r] -= factor * change[i];
            }
        }
        for (int i = 7; i >= 0; --i) {
            for (int k = i + 1; k < 8; ++k) {
                change[i] -= a[i][k] * change[k];
            }
            change[i] = change[i] / a[i][i];
        }
    }

    // The best of both directions, where every eight has its own.
    void search_best(int64_t first, const F * target, const F * weight, F s, int v) {
        if constexpr (Codec::shift == Shift::of_eight) {
            search_.run(target, weight, s, L::all(0.f) != 0.f);
            const PointSearch<L, Codec> up = search_;
            search_.run(target, weight, s, L::all(0.f) == 0.f);
            const M better = up.cost < search_.cost;
            search_.point[0] = L::select(better, up.point[0], search_.point[0]);
            search_.signs = L::select(better, up.signs, search_.signs);
            search_.cost = L::select(better, up.cost, search_.cost);
            for (int i = 0; i < 8; ++i) {
                search_.value[i] = L::select(better, up.value[i], search_.value[i]);
            }
        } else if constexpr (Codec::shift == Shift::of_part) {
            search_.run(target, weight, s, T::load_lanes(tile_.signs, first / 8, v) != 0.f);
        } else {
            search_.run(target, weight, s, M{});
        }
    }

    // Takes what was found, in the lanes given.
    void keep(int64_t first, int v, M where) {
        constexpr int group = Codec::group;
        for (int g = 0; g < 8 / group; ++g) {
            put(to_float(search_.point[g]), tile_.point, first / group + g, v, where);
        }
        put(to_float(search_.signs), tile_.signs, first / 8, v, where);
        for (int i = 0; i < 8; ++i) {
            put(search_.value[i], tile_.value, first + i, v, where);
        }
    }

    static void put(F x, float * array, int64_t i, int v, M where) {
        T::store_lanes(L::select(where, x, T::load_lanes(array, i, v)), array, i, v);
    }

    const Compensation & job_;
    T & tile_;
    PointSearch<L, Codec> search_;
};

}  // namespace
}  // namespace apex
