// How levels are chosen under an objective where every weight has its own: the K types and those of
// small blocks, and IQ4.
#pragma once

#include "compensation/tile.h"

namespace apex {
namespace {

template <typename L, typename Codec>
class LevelSteps {
  public:
    using F = typename L::F;
    using T = Tile<L, Codec>;
    static constexpr int part = T::part;

    LevelSteps(const Compensation & job, T & tile) : job_(job), tile_(tile) {}

    // What the part's weights would miss their targets by under a scale and a minimum, if none of
    // them made up for another.
    F cost(int64_t first, const F * target, F s, F m, int) const {
        const F inverse = inverse_of(s);
        F sum = L::all(0.f);
        for (int i = 0; i < part; ++i) {
            const F miss = s * nearest((target[i] + m) * inverse) - m - target[i];
            sum += job_.pivots[first + i] * miss * miss;
        }
        return sum;
    }

    // The targets of the part's weights; `owed` is what errors before them leave to make up for.
    void targets(int64_t first, const float * owed, int v, F * target) const {
        for (int i = 0; i < part; ++i) {
            target[i] = T::load_lanes(tile_.w, first + i, v) - T::load_lanes(owed, i, v);
        }
    }

    // Chooses the part's levels one after the other, each making up for those before; returns what
    // that adds to the objective.
    F feed(int64_t first, float * owed, F s, F m, int v) {
        const F inverse = inverse_of(s);
        F sum = L::all(0.f);
        for (int i = 0; i < part; ++i) {
            const int64_t column = first + i;
            const F w = T::load_lanes(tile_.w, column, v);
            const F mine = T::load_lanes(owed, i, v);
            const F value = nearest((w - mine + m) * inverse);
            const F error = s * value - m - w;
            T::store_lanes(value, tile_.value, column, v);
            T::store_lanes(error, tile_.error, column, v);
            const F miss = error + mine;
            sum += job_.pivots[column] * miss * miss;
            for (int k = i + 1; k < part; ++k) {
                const float factor = job_.factors[(first + k) * job_.columns + column];
                T::store_lanes(T::load_lanes(owed, k, v) + error * factor, owed, k, v);
            }
        }
        return sum;
    }

    // Moves every level of the part to where the objective is least, the others staying; `slope` is
    // half the objective's, and is kept current in the part.
    void descend(int64_t first, float * slope, F s, F m, int v) {
        const F inverse = inverse_of(s);
        for (int round = 0; round < kRounds; ++round) {
            for (int i = 0; i < part; ++i) {
                const int64_t column = first + i;
                const float * row = job_.moments + column * job_.columns + first;
                const F value = T::load_lanes(tile_.value, column, v);
                const F now = s * value - m;
                const F best = nearest((now - T::load_lanes(slope, i, v) / row[i] + m) * inverse);
                const F change = s * (best - value);
                T::store_lanes(best, tile_.value, column, v);
                for (int k = 0; k < part; ++k) {
                    T::store_lanes(T::load_lanes(slope, k, v) + change * row[k], slope, k, v);
                }
            }
        }
    }

  private:
    static constexpr int kRounds = 2;

    static F inverse_of(F s) { return L::select(s != 0.f, 1.f / s, L::all(0.f)); }

    static F nearest(F x) {
        if constexpr (Codec::is_iq4) {
            const auto & levels = Iq4Levels::get();
            return lookup16(levels.value, nearest_level<L>(levels, x));
        } else {
            constexpr auto low = static_cast<float>(Codec::level_base);
            constexpr auto high = static_cast<float>(Codec::level_base + Codec::levels - 1);
            return L::nearest(L::min(L::max(x, L::all(low)), L::all(high)));
        }
    }

    const Compensation & job_;
    T & tile_;
};

}  // namespace
}  // namespace apex
