// Compensated rounding: errors of columns whose inputs move together make up for each other. The
// bytes of the reference are where it begins, and a row is left as it was where nothing is better.
//
// 1. feed: block after block, every weight is rounded to what makes up for the errors before it
//    (GPTQ, arXiv 2210.17323, in the form of QuIP's LDLQ, arXiv 2307.13304), with the integers of
//    the scales searched anew.
// 2. sweep: coordinate descent (CDQuant, arXiv 2406.17542): the scales of a block, then the
//    integers of each part, then its levels move to where the objective is least.
// 3. unshrink: one factor per row undoes what least squares take off the size of the outputs.
#pragma once

#include <type_traits>

#include "compensation/levels.h"
#include "compensation/points.h"

namespace apex {
namespace {

template <typename L, typename Codec>
class Compensator {
  public:
    using F = typename L::F;
    using M = typename L::M;
    using T = Tile<L, Codec>;
    using Steps = std::conditional_t<Codec::has_points, PointSteps<L, Codec>, LevelSteps<L, Codec>>;
    static constexpr int tile = T::tile, part = T::part, parts = T::parts, weights = T::weights;

    explicit Compensator(const Compensation & job) : job_(job), tile_(job), steps_(job, tile_) {}

    void run(int64_t first, int64_t count) {
        tile_.load(first, count);
        F start[2], now[2];
        measure(start);
        feed(now);
        give_back(start, now);
        for (int sweep = 0; sweep < job_.sweeps; ++sweep) {
            for (int64_t b = 0; b < tile_.blocks(); ++b) {
                descend(b);
            }
        }
        unshrink();
        for (int lane = 0; lane < count; ++lane) {
            tile_.write(lane);
        }
    }

  private:
    // sums = the columns of x * matrix that belong to a block.
    void multiply(const float * x, const float * matrix, int64_t b, int64_t end) {
        std::memset(tile_.sums, 0, sizeof(float) * weights * tile);
        accumulate<L>(x, 0, end, matrix + b * weights * job_.columns, job_.columns, weights,
                      tile_.sums);
    }

    // The objective of every lane.
    void measure(F * objective) {
        objective[0] = objective[1] = L::all(0.f);
        for (int64_t b = 0; b < tile_.blocks(); ++b) {
            multiply(tile_.error, job_.moments, b, job_.columns);
            for (int i = 0; i < weights; ++i) {
                for (int v = 0; v < 2; ++v) {
                    objective[v] += T::load_lanes(tile_.error, b * weights + i, v) *
                                    T::load_lanes(tile_.sums, i, v);
                }
            }
        }
    }

    // Part of the block's sums that belongs to part p.
    float * sums_of(int64_t p) { return tile_.sums + p % parts * part * tile; }

    void feed(F * objective) {
        objective[0] = objective[1] = L::all(0.f);
        for (int64_t b = 0; b < tile_.blocks(); ++b) {
            multiply(tile_.error, job_.factors, b, b * weights);
            for (int64_t p = b * parts; p < (b + 1) * parts; ++p) {
                for (int v = 0; v < 2; ++v) {
                    choose_integers(p, v);
                    objective[v] += steps_.feed(p * part, sums_of(p), tile_.scale_of(p, v),
                                                tile_.min_of(p, v), v);
                }
                const int64_t next = (p + 1) * part;
                accumulate<L>(tile_.error, p * part, next, job_.factors + next * job_.columns,
                              job_.columns, static_cast<int>((b + 1) * weights - next),
                              sums_of(p) + part * tile);
            }
        }
    }

    // The integers of a part's scale and minimum, near those that it has, by what its targets cost.
    void choose_integers(int64_t p, int v) {
        if constexpr (Codec::scale_low == Codec::scale_high && Codec::shift != Shift::of_part) {
            return;
        }
        F target[part];
        steps_.targets(p * part, sums_of(p), v, target);
        const F scale = T::load_lanes(tile_.scale, p, v);
        const F min = T::load_lanes(tile_.min, p, v);
        F best_scale = scale, best_min = min, best_down{};
        F best = cost_of(p, target, v);
        if constexpr (Codec::shift == Shift::of_part) {
            best_down = T::load_lanes(tile_.signs, p * part / 8, v);
        }
        constexpr int directions = Codec::shift == Shift::of_part ? 2 : 1;
        constexpr int reach = Codec::scale_low == Codec::scale_high ? 0 : 1;
        constexpr int reach_min = Codec::has_mins ? reach : 0;
        for (int direction = 0; direction < directions; ++direction) {
            if constexpr (directions == 2) {
                for (int e = 0; e < part / 8; ++e) {
                    T::store_lanes(L::all(static_cast<float>(direction)), tile_.signs,
                                   p * part / 8 + e, v);
                }
            }
            for (int a = -reach; a <= reach; ++a) {
                for (int c = -reach_min; c <= reach_min; ++c) {
                    if (directions == 1 && a == 0 && c == 0) {
                        continue;
                    }
                    T::store_lanes(scale + static_cast<float>(a), tile_.scale, p, v);
                    T::store_lanes(min + static_cast<float>(c), tile_.min, p, v);
                    const F here = cost_of(p, target, v);
                    const M better = (here < best) & is_allowed(p, v);
                    best = L::select(better, here, best);
                    best_scale = L::select(better, T::load_lanes(tile_.scale, p, v), best_scale);
                    best_min = L::select(better, T::load_lanes(tile_.min, p, v), best_min);
                    if constexpr (directions == 2) {
                        best_down =
                            L::select(better, L::all(static_cast<float>(direction)), best_down);
                    }
                }
            }
        }
        T::store_lanes(best_scale, tile_.scale, p, v);
        T::store_lanes(best_min, tile_.min, p, v);
        if constexpr (directions == 2) {
            for (int e = 0; e < part / 8; ++e) {
                T::store_lanes(best_down, tile_.signs, p * part / 8 + e, v);
            }
        }
    }

    F cost_of(int64_t p, const F * target, int v) {
        return steps_.cost(p * part, target, tile_.scale_of(p, v), tile_.min_of(p, v), v);
    }

    M is_allowed(int64_t p, int v) const {
        const F scale = T::load_lanes(tile_.scale, p, v);
        const F min = T::load_lanes(tile_.min, p, v);
        return (scale >= static_cast<float>(Codec::scale_low)) &
               (scale <= static_cast<float>(Codec::scale_high)) &
               (min >= static_cast<float>(Codec::min_low)) &
               (min <= static_cast<float>(Codec::min_high));
    }

    // Rows that feeding made worse begin the descent as the reference has them.
    void give_back(const F * start, const F * now) {
        for (int lane = 0; lane < tile; ++lane) {
            if (!(lane_of(now, lane) < lane_of(start, lane))) {
                tile_.read(lane);
            }
        }
        for (int64_t p = 0; p < tile_.columns() / part; ++p) {
            for (int v = 0; v < 2; ++v) {
                tile_.update_errors(p, v);
            }
        }
    }

    static float lane_of(const F * lanes, int lane) {
        float values[tile];
        std::memcpy(values, lanes, sizeof(values));
        return values[lane];
    }

    void descend(int64_t b) {
        const int64_t first = b * weights;
        multiply(tile_.error, job_.moments, b, job_.columns);
        refit(b);
        for (int64_t p = b * parts; p < (b + 1) * parts; ++p) {
            F before[2][part];
            for (int v = 0; v < 2; ++v) {
                for (int i = 0; i < part; ++i) {
                    before[v][i] = T::load_lanes(tile_.error, p * part + i, v);
                }
                move_integers(p, v);
                steps_.descend(p * part, sums_of(p), tile_.scale_of(p, v), tile_.min_of(p, v), v);
                tile_.update_errors(p, v);
                for (int i = 0; i < part; ++i) {
                    T::store_lanes(T::load_lanes(tile_.error, p * part + i, v) - before[v][i],
                                   tile_.along, p % parts * part + i, v);
                }
            }
            const int64_t next = (p + 1) * part;
            accumulate<L>(tile_.along, p * part - first, next - first,
                          job_.moments + next * job_.columns + first, job_.columns,
                          static_cast<int>(first + weights - next), sums_of(p) + part * tile);
        }
    }

    // Moves the integers of a part's scale and minimum by one, the levels staying.
    void move_integers(int64_t p, int v) {
        if constexpr (Codec::scale_low != Codec::scale_high) {
            float * sums = sums_of(p);
            F product[part], linear = L::all(0.f), square = L::all(0.f), mixed = L::all(0.f);
            F sum = L::all(0.f);
            float row_sum[part], all = 0;
            for (int i = 0; i < part; ++i) {
                const float * row = job_.moments + (p * part + i) * job_.columns + p * part;
                product[i] = L::all(0.f);
                row_sum[i] = 0;
                for (int k = 0; k < part; ++k) {
                    product[i] += T::load_lanes(tile_.value, p * part + k, v) * row[k];
                    row_sum[i] += row[k];
                }
                const F value = T::load_lanes(tile_.value, p * part + i, v);
                linear += value * T::load_lanes(sums, i, v);
                square += value * product[i];
                mixed += product[i];
                sum += T::load_lanes(sums, i, v);
                all += row_sum[i];
            }
            const F unit = T::load_lanes(tile_.d, p / parts, v) * Codec::scale_step;
            const F min_unit = T::load_lanes(tile_.dmin, p / parts, v);
            const F scale = T::load_lanes(tile_.scale, p, v);
            const F min = T::load_lanes(tile_.min, p, v);
            F best{}, by{}, min_by{};
            constexpr int reach_min = Codec::has_mins ? 1 : 0;
            for (int a = -1; a <= 1; ++a) {
                for (int c = -reach_min; c <= reach_min; ++c) {
                    const F s = unit * static_cast<float>(a);
                    const F m = Codec::has_mins ? min_unit * static_cast<float>(c) : L::all(0.f);
                    const F gain = 2.f * (s * linear - m * sum) + s * s * square -
                                   2.f * s * m * mixed + m * m * all;
                    T::store_lanes(scale + static_cast<float>(a), tile_.scale, p, v);
                    T::store_lanes(min + static_cast<float>(c), tile_.min, p, v);
                    const M better = (gain < best) & is_allowed(p, v);
                    best = L::select(better, gain, best);
                    by = L::select(better, L::all(static_cast<float>(a)), by);
                    min_by = L::select(better, L::all(static_cast<float>(c)), min_by);
                }
            }
            T::store_lanes(scale + by, tile_.scale, p, v);
            T::store_lanes(min + min_by, tile_.min, p, v);
            for (int i = 0; i < part; ++i) {
                F moved = T::load_lanes(sums, i, v) + unit * by * product[i];
                if constexpr (Codec::has_mins) {
                    moved -= min_unit * min_by * row_sum[i];
                }
                T::store_lanes(moved, sums, i, v);
            }
        }
    }

    // The block's d and dmin by least squares, the rest staying; kept where they are better after
    // their rounding to binary16.
    void refit(int64_t b) {
        const int64_t first = b * weights;
        F linear[2][2], square[2][2], mixed[2];
        for (int which = 0; which < (Codec::has_mins ? 2 : 1); ++which) {
            for (int64_t i = 0; i < weights; ++i) {
                for (int v = 0; v < 2; ++v) {
                    const int64_t p = (first + i) / part;
                    F x = T::load_lanes(tile_.min, p, v);
                    if (which == 0) {
                        x = (Codec::scale_base +
                             Codec::scale_step * T::load_lanes(tile_.scale, p, v)) *
                            T::load_lanes(tile_.value, first + i, v);
                    }
                    T::store_lanes(x, tile_.along, i, v);
                }
            }
            float * product = tile_.products[which];
            std::memset(product, 0, sizeof(float) * weights * tile);
            accumulate<L>(tile_.along, 0, weights, job_.moments + first * job_.columns + first,
                          job_.columns, weights, product);
            for (int v = 0; v < 2; ++v) {
                linear[which][v] = square[which][v] = L::all(0.f);
                mixed[v] = L::all(0.f);
                for (int i = 0; i < weights; ++i) {
                    const F x = T::load_lanes(tile_.along, i, v);
                    linear[which][v] += x * T::load_lanes(tile_.sums, i, v);
                    square[which][v] += x * T::load_lanes(product, i, v);
                    mixed[v] += x * T::load_lanes(tile_.products[0], i, v);
                }
            }
        }
        for (int v = 0; v < 2; ++v) {
            const F d = T::load_lanes(tile_.d, b, v);
            const F dmin = T::load_lanes(tile_.dmin, b, v);
            F by = -linear[0][v] / square[0][v];
            F min_by = L::all(0.f);
            if constexpr (Codec::has_mins) {
                const F both = square[0][v] * square[1][v] - mixed[v] * mixed[v];
                const M solvable = both > 1e-5f * square[0][v] * square[1][v];
                const F joint = (mixed[v] * linear[1][v] - linear[0][v] * square[1][v]) / both;
                const F other = (square[0][v] * linear[1][v] - mixed[v] * linear[0][v]) / both;
                by = L::select(solvable, joint, by);
                min_by = L::select(solvable, other, min_by);
            }
            const F new_d = L::from_half(L::to_half(d + by));
            const F new_dmin = L::from_half(L::to_half(dmin + min_by));
            const F s = new_d - d;
            const F m = new_dmin - dmin;
            F gain = 2.f * s * linear[0][v] + s * s * square[0][v];
            if constexpr (Codec::has_mins) {
                gain += m * m * square[1][v] - 2.f * (m * linear[1][v] + s * m * mixed[v]);
            }
            const M better = (gain < 0.f) & (L::abs(new_d) < 65505.f) & (new_d != 0.f) &
                             (L::abs(new_dmin) < 65505.f);
            T::store_lanes(L::select(better, new_d, d), tile_.d, b, v);
            T::store_lanes(L::select(better, new_dmin, dmin), tile_.dmin, b, v);
            const F step = L::select(better, s, L::all(0.f));
            const F min_step = L::select(better, m, L::all(0.f));
            for (int i = 0; i < weights; ++i) {
                F moved =
                    T::load_lanes(tile_.sums, i, v) + step * T::load_lanes(tile_.products[0], i, v);
                if constexpr (Codec::has_mins) {
                    moved -= min_step * T::load_lanes(tile_.products[1], i, v);
                }
                T::store_lanes(moved, tile_.sums, i, v);
            }
            for (int64_t p = b * parts; p < (b + 1) * parts; ++p) {
                tile_.update_errors(p, v);
            }
        }
    }

    // Multiplies the scales of a row by w H w^T / w H v^T, v being what the weights w have become;
    // of a block whose d or dmin would leave binary16, neither.
    void unshrink() {
        F wanted[2] = {L::all(0.f), L::all(0.f)}, got[2] = {L::all(0.f), L::all(0.f)};
        for (int64_t b = 0; b < tile_.blocks(); ++b) {
            multiply(tile_.w, job_.moments, b, job_.columns);
            for (int i = 0; i < weights; ++i) {
                for (int v = 0; v < 2; ++v) {
                    const F w = T::load_lanes(tile_.w, b * weights + i, v);
                    const F sum = T::load_lanes(tile_.sums, i, v);
                    wanted[v] += sum * w;
                    got[v] += sum * (w + T::load_lanes(tile_.error, b * weights + i, v));
                }
            }
        }
        for (int v = 0; v < 2; ++v) {
            const F factor = wanted[v] / got[v];
            const M holds = (factor > 0.8f) & (factor < 1.5f);
            for (int64_t b = 0; b < tile_.blocks(); ++b) {
                const F d = T::load_lanes(tile_.d, b, v);
                const F dmin = T::load_lanes(tile_.dmin, b, v);
                const F new_d = L::from_half(L::to_half(d * factor));
                const F new_dmin = L::from_half(L::to_half(dmin * factor));
                const M kept = holds & fits(d, new_d) & fits(dmin, new_dmin);
                T::store_lanes(L::select(kept, new_d, d), tile_.d, b, v);
                T::store_lanes(L::select(kept, new_dmin, dmin), tile_.dmin, b, v);
            }
        }
    }

    // Whether a scale is still finite, and zero only where it was.
    static M fits(F before, F after) {
        return ((after != 0.f) | (before == 0.f)) & (L::abs(after) < 65505.f);
    }

    const Compensation & job_;
    T tile_;
    Steps steps_;
};

template <typename L, typename Codec>
void compensate_rows(const Compensation & job) {
    Compensator<L, Codec> compensator(job);
    for (int64_t first = 0; first < job.rows; first += kTile<L>) {
        const int64_t left = job.rows - first;
        compensator.run(first, left < kTile<L> ? left : kTile<L>);
    }
}

}  // namespace
}  // namespace apex
