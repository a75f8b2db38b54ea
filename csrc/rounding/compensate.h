// Compensated rounding of the rows of one matrix, on several threads.
#pragma once

#include <ggml.h>

#include "engine/rows.h"
#include "rounding/objective.h"

namespace apex::rounding {

// Quantizes the rows of one matrix (shape.experts is 1). The bytes depend on nothing but the
// arguments. `objective_of_rows`: two per row, before and after, or null. Throws as
// engine::quantize_rows, and std::invalid_argument for a type that has no compensated rounding.
void quantize_compensated(const void * source, ggml_type source_type, const engine::Shape & shape,
                          ggml_type type, const float * importance, const Objective & objective,
                          void * target, int sweeps, int how, double * objective_of_rows,
                          int threads);

}  // namespace apex::rounding
