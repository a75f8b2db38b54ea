// Compensated rounding of the rows of one matrix, on several threads.
#pragma once

#include <ggml.h>

#include "engine/rows.h"
#include "rounding/objective.h"

namespace apex::rounding {

// Improves what engine::quantize_rows made of the rows of one matrix (shape.experts is 1), in
// place: `target` never gets worse under the objective, and is then unshrunk. The bytes depend on
// nothing but the arguments, threads excluded. Throws engine::BadData, and std::invalid_argument
// for types that have no compensated rounding or an objective of other columns.
void compensate_rows(const void * source, ggml_type source_type, const engine::Shape & shape,
                     ggml_type type, const Objective & objective, void * target, int threads);

}  // namespace apex::rounding
