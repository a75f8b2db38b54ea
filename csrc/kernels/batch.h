// Runs a format over rows: W blocks at a time, one per lane.
//
// A format is a struct of steps over one block (or super-block) of `weights` weights and `bytes`
// bytes, whose `parts` parts are searched by themselves:
//   sigma2   once per block   what corrects the importance: a mean of squares
//   search   once per part    its scale, and what else is `Found`
//   combine  once per block   all scales as integers; writes their bytes, leaves `Scales`
//   round    once per part    the levels of its weights
//   pack     once per block   the levels as bytes
// Formats with a codebook have no levels: there combine writes every byte. The steps see lanes, so
// that at width one the threads of a GPU can share a block's steps among themselves (csrc/cuda).
// `Tables` is what the steps look up; `halves` are the places of the block's binary16 numbers.
#pragma once

#include "kernels/table.h"
#include "lane/transpose.h"

namespace apex {
namespace {

// The weights of W blocks of `count` weights as lanes, and the importance of their columns.
template <typename L, int count>
class Blocks {
  public:
    using F = typename L::F;

    F x[count];

    void load(const Rows & rows, int64_t first, int64_t last) {
        rows_ = &rows;
        const float * sources[L::width];
        const int64_t per_row = rows.columns / count;
        for (int lane = 0; lane < L::width; ++lane) {
            const int64_t block = first + lane < last ? first + lane : last - 1;
            sources[lane] = rows.values + block * count;
            row_[lane] = block / per_row;
            importance_[lane] =
                rows.importance == nullptr ? nullptr : rows.importance + (block % per_row) * count;
        }
        load_rows<L::width>(sources, count, x);
    }

    // The importance of the columns first .. first + n of every block.
    template <int n>
    void load_importance(int first, F * importance) const {
        const float * sources[L::width];
        for (int lane = 0; lane < L::width; ++lane) {
            sources[lane] = importance_[lane] + first;
        }
        load_rows<L::width>(sources, n, importance);
    }

    // The mean of the squares of the whole row that each block is in.
    F row_mean_square() const {
        float sums[L::width];
        for (int lane = 0; lane < L::width; ++lane) {
            if (row_[lane] != summed_row_) {
                summed_row_ = row_[lane];
                row_sum_ = 0;
                const float * row = rows_->values + summed_row_ * rows_->columns;
                for (int64_t i = 0; i < rows_->columns; ++i) {
                    row_sum_ += row[i] * row[i];
                }
            }
            sums[lane] = row_sum_;
        }
        F result;
        std::memcpy(&result, sums, sizeof(result));
        return result / static_cast<float>(rows_->columns);
    }

  private:
    const Rows * rows_;
    const float * importance_[L::width];
    int64_t row_[L::width];
    mutable int64_t summed_row_ = -1;  // the last one, which the next blocks may be in as well
    mutable float row_sum_ = 0;
};

// Where a block has its binary16 numbers.
template <int... places>
struct Halves {
    template <typename Byte>
    APEX_HOST_DEVICE static bool any_infinite([[maybe_unused]] const Byte * bytes) {
        return (false || ... || any((bytes[places + 1] & 0x7c) == 0x7c));
    }
};

// For formats that look nothing up.
struct NoTables {
    static const NoTables & get() {
        static const NoTables none;
        return none;
    }
};

// What formats have in common, unless they say otherwise.
struct FormatDefaults {
    using Tables = NoTables;
    static constexpr bool has_levels = true;
    static constexpr bool leaves_levels = false;  // search writes levels that round may keep
    static constexpr bool by_row = false;         // sigma2 is the mean square of the whole row
    static constexpr bool keeps_weights = false;  // combine needs the weights of all parts

    template <typename L>
    struct Scales {};

    // How many parts a search takes at a time.
    template <typename L, bool weighted>
    APEX_HOST_DEVICE static constexpr int together() {
        return 1;
    }

    template <typename L, bool weighted, typename Weights>
    APEX_HOST_DEVICE static typename L::F sigma2(Weights) {
        return L::all(0.f);
    }
};

// All steps over the blocks of one lane each. Returns whether a weight is too large.
template <typename L, typename Format, bool weighted>
bool quantize_lanes(const Blocks<L, Format::weights> & blocks, typename L::I * bytes) {
    using F = typename L::F;
    constexpr int part = Format::weights / Format::parts;
    constexpr int together = Format::template together<L, weighted>();
    const auto & tables = Format::Tables::get();
    typename Format::template Found<L> found[Format::parts];
    F weight[Format::keeps_weights ? Format::weights : together * part];
    typename L::I levels[Format::has_levels ? Format::weights : 1];
    bool too_large = false;

    F sigma2;
    if constexpr (Format::by_row && weighted) {
        sigma2 = blocks.row_mean_square();
    } else {
        sigma2 = Format::template sigma2<L, weighted>(blocks.x);
    }
    for (int j = 0; j < Format::parts; j += together) {
        F * of_part = Format::keeps_weights ? weight + j * part : weight;
        if constexpr (weighted) {
            blocks.template load_importance<together * part>(j * part, of_part);
        }
        too_large |= Format::template search<L, weighted>(
            tables, blocks.x + j * part, of_part, sigma2, found + j,
            Format::has_levels ? levels + j * part : nullptr);
    }
    typename Format::template Scales<L> scales;
    too_large |=
        Format::template combine<L, weighted>(tables, blocks.x, weight, found, &scales, bytes);
    if constexpr (Format::has_levels) {
        for (int j = 0; j < Format::parts; ++j) {
            Format::template round<L, weighted>(tables, blocks.x + j * part, found[j], scales, j,
                                                levels + j * part);
        }
        Format::pack(levels, bytes);
    }
    return too_large || Format::halves::any_infinite(bytes);
}

// `bytes` are one integer of 0 .. 255 per byte of the block.
template <typename L, typename Format, bool weighted>
void quantize_blocks(const Rows & rows) {
    using I = typename L::I;
    constexpr int words = (Format::bytes + 3) / 4;
    constexpr int padded = (words + L::width - 1) / L::width * L::width;
    Blocks<L, Format::weights> blocks;
    I bytes[4 * padded];
    for (int i = Format::bytes; i < 4 * padded; ++i) {
        bytes[i] = I{};
    }
    alignas(64) int32_t matrix[L::width * padded];
    const int64_t count = rows.rows * (rows.columns / Format::weights);
    for (int64_t first = 0; first < count; first += L::width) {
        blocks.load(rows, first, count);
        if (quantize_lanes<L, Format, weighted>(blocks, bytes)) {
            *rows.too_large = true;
        }
        I lanes[padded];
        for (int i = 0; i < padded; ++i) {
            lanes[i] = bytes[4 * i] | bytes[4 * i + 1] << 8 | bytes[4 * i + 2] << 16 |
                       bytes[4 * i + 3] << 24;
        }
        store_rows<L::width>(lanes, padded, matrix);
        const int64_t here = count - first < L::width ? count - first : L::width;
        for (int64_t lane = 0; lane < here; ++lane) {
            std::memcpy(rows.target + (first + lane) * Format::bytes, matrix + lane * padded,
                        Format::bytes);
        }
    }
}

template <typename I, typename Out>
APEX_HOST_DEVICE inline void put_half(I half, Out bytes) {
    bytes[0] = half & 255;
    bytes[1] = half >> 8 & 255;
}

}  // namespace
}  // namespace apex
