// Rows that are rounded side by side, a lane each: their weights, and what they have become.
#pragma once

#include "compensation/codecs.h"
#include "compensation/product.h"
#include "isa/kernel_table.h"
#include "lane/transpose.h"

namespace apex {
namespace {

template <typename L, typename Codec>
class Tile {
  public:
    using F = typename L::F;
    using Format = typename Codec::Format;
    static constexpr int tile = kTile<L>;
    static constexpr int weights = Format::weights;       // of a block
    static constexpr int part = weights / Format::parts;  // weights under one scale
    static constexpr int parts = Format::parts;           // of a block

    // All by column, except the scales, integers by part and d by block.
    float * w;      // the weights
    float * error;  // what they have become, minus the weights
    float * value;  // of their levels
    float * scale;  // integers
    float * min;    // integers
    float * d;
    float * dmin;
    float * point;        // indices, by group
    float * signs;        // by eight weights
    float * sums;         // products, by column of one block
    float * along;        // a direction, by column of one block
    float * products[2];  // of directions

    explicit Tile(const Compensation & job) : job_(job) {
        float * free = job.scratch;
        const auto take = [&](int64_t count) {
            float * result = free;
            free += count * tile;
            return result;
        };
        const int64_t columns = job.columns;
        w = take(columns);
        error = take(columns);
        value = take(columns);
        scale = take(columns / part);
        min = take(columns / part);
        d = take(columns / weights);
        dmin = take(columns / weights);
        point = take(columns / 4);
        signs = take(columns / 8);
        sums = take(weights);
        along = take(weights);
        products[0] = take(weights);
        products[1] = take(weights);
    }

    int64_t columns() const { return job_.columns; }
    int64_t blocks() const { return job_.columns / weights; }

    // Takes `count` rows from `first` on; the lanes that are left get the last one again.
    void load(int64_t first, int64_t count) {
        first_ = first;
        count_ = count;
        for (int lane = 0; lane < tile; ++lane) {
            const float * row = job_.values + row_of(lane) * columns();
            for (int64_t i = 0; i < columns(); ++i) {
                w[i * tile + lane] = row[i];
            }
            read(lane);
        }
        for (int64_t p = 0; p < columns() / part; ++p) {
            for (int v = 0; v < 2; ++v) {
                update_errors(p, v);
            }
        }
    }

    // Takes a lane's levels from the bytes.
    void read(int lane) {
        const uint8_t * bytes = job_.target + row_of(lane) * blocks() * Format::bytes;
        Block block{};
        for (int64_t b = 0; b < blocks(); ++b) {
            Codec::read(bytes + b * Format::bytes, block);
            d[b * tile + lane] = block.d;
            dmin[b * tile + lane] = block.dmin;
            for (int j = 0; j < parts; ++j) {
                scale[(b * parts + j) * tile + lane] = static_cast<float>(block.scale[j]);
                min[(b * parts + j) * tile + lane] = static_cast<float>(block.min[j]);
            }
            read_levels(b, lane, block);
        }
    }

    // Writes a lane's levels as bytes.
    void write(int lane) const {
        uint8_t * bytes = job_.target + row_of(lane) * blocks() * Format::bytes;
        Block block{};
        for (int64_t b = 0; b < blocks(); ++b) {
            block.d = d[b * tile + lane];
            block.dmin = dmin[b * tile + lane];
            for (int j = 0; j < parts; ++j) {
                block.scale[j] = static_cast<int32_t>(scale[(b * parts + j) * tile + lane]);
                block.min[j] = static_cast<int32_t>(min[(b * parts + j) * tile + lane]);
            }
            write_levels(b, lane, block);
            Codec::write(block, bytes + b * Format::bytes);
        }
    }

    int64_t row_of(int lane) const { return first_ + (lane < count_ ? lane : count_ - 1); }
    int64_t count() const { return count_; }

    // The scale of part p, and its minimum.
    F scale_of(int64_t p, int v) const {
        const F integer = load_lanes(scale, p, v);
        return load_lanes(d, p / parts, v) * (Codec::scale_base + Codec::scale_step * integer);
    }
    F min_of(int64_t p, int v) const {
        if constexpr (Codec::has_mins) {
            return load_lanes(dmin, p / parts, v) * load_lanes(min, p, v);
        } else {
            return L::all(0.f);
        }
    }

    // The errors of part p, from its levels.
    void update_errors(int64_t p, int v) {
        const F s = scale_of(p, v);
        const F m = min_of(p, v);
        for (int64_t i = p * part; i < (p + 1) * part; ++i) {
            store_lanes(s * load_lanes(value, i, v) - m - load_lanes(w, i, v), error, i, v);
        }
    }

    static F load_lanes(const float * array, int64_t i, int v) {
        return apex::load<F>(array + i * tile + v * L::width);
    }
    static void store_lanes(F x, float * array, int64_t i, int v) {
        apex::store(x, array + i * tile + v * L::width);
    }

  private:
    void read_levels(int64_t b, int lane, const Block & block) {
        if constexpr (Codec::has_points) {
            const Points & points = Codec::points();
            constexpr int group = Codec::group;
            for (int g = 0; g < weights / group; ++g) {
                point[(b * (weights / group) + g) * tile + lane] =
                    static_cast<float>(block.point[g]);
            }
            for (int k = 0; k < weights / 8; ++k) {
                signs[(b * (weights / 8) + k) * tile + lane] = static_cast<float>(block.signs[k]);
            }
            for (int i = 0; i < weights; ++i) {
                const float of_point = points.weights[block.point[i / group] * group + i % group];
                value[(b * weights + i) * tile + lane] =
                    signed_value(of_point, block.signs[i / 8], i % 8);
            }
        } else {
            for (int i = 0; i < weights; ++i) {
                value[(b * weights + i) * tile + lane] = value_of(block.level[i]);
            }
        }
    }

    void write_levels(int64_t b, int lane, Block & block) const {
        if constexpr (Codec::has_points) {
            constexpr int groups = weights / Codec::group;
            for (int g = 0; g < groups; ++g) {
                block.point[g] = static_cast<int32_t>(point[(b * groups + g) * tile + lane]);
            }
            for (int k = 0; k < weights / 8; ++k) {
                block.signs[k] = static_cast<int32_t>(signs[(b * (weights / 8) + k) * tile + lane]);
            }
        } else {
            for (int i = 0; i < weights; ++i) {
                block.level[i] = level_of(value[(b * weights + i) * tile + lane]);
            }
        }
    }

    static float signed_value(float of_point, int32_t sign_bits, int i) {
        if constexpr (Codec::shift != Shift::none) {
            return of_point + (sign_bits != 0 ? -IQ1S_DELTA : IQ1S_DELTA);
        } else {
            return sign_bits >> i & 1 ? -of_point : of_point;
        }
    }

    static float value_of(int32_t level) {
        if constexpr (Codec::is_iq4) {
            return Iq4Levels::get().value[level];
        } else {
            return static_cast<float>(Codec::level_base + level);
        }
    }

    static int32_t level_of(float value_) {
        if constexpr (Codec::is_iq4) {
            return nearest_level<Lanes<1>>(Iq4Levels::get(), value_);
        } else {
            return static_cast<int32_t>(value_) - Codec::level_base;
        }
    }

    const Compensation & job_;
    int64_t first_ = 0, count_ = 0;
};

}  // namespace
}  // namespace apex
