// Runs a format over rows on a processor: W blocks at a time, one per lane.
#pragma once

#include "formats/format.h"
#include "isa/kernel_table.h"
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
    if constexpr (Format::keeps_weights) {
        too_large |=
            Format::template combine<L, weighted>(tables, blocks.x, weight, found, &scales, bytes);
    } else {
        too_large |= Format::template combine<L, weighted>(tables, found, &scales, bytes);
    }
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

}  // namespace
}  // namespace apex
