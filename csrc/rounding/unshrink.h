// Gives rounded rows back the size that least squares took from their outputs.
#pragma once

#include <ggml.h>

#include "engine/rows.h"

namespace apex::rounding {

// Multiplies the scales of every quantized row by Σ h w² / Σ h w ŵ: w the weights of the row, ŵ
// what it has for them, h their columns' importance. The sums are in binary64, in the order of the
// columns. Where a sum is not positive, or the quotient not between 1/2 and 2, the row is left.
//
// source: rows of F32, F16 or BF16, or of any type that can be read. importance: `columns` values
// per expert. target: the rows as `type`, changed in place. Throws engine::BadData for weights that
// are NaN or infinite, or a result that ggml does not accept, and std::invalid_argument for a type
// without scales.
void unshrink_rows(const void * source, ggml_type source_type, const engine::Shape & shape,
                   ggml_type type, const float * importance, void * target, int threads);

}  // namespace apex::rounding
