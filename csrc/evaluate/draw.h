// Which tasks of a set are evaluated, and in which order: as llama.cpp's tools/perplexity draws
// them, with the same generator and seed.
#pragma once

#include <cstdint>
#include <vector>

namespace apex::evaluate {

// HellaSwag: `wanted` of `available`, always shuffled.
std::vector<int64_t> draw_hellaswag(int64_t available, int64_t wanted);

// Winogrande and multiple choice: in the file's order where all are wanted.
std::vector<int64_t> draw_tasks(int64_t available, int64_t wanted);

}  // namespace apex::evaluate
