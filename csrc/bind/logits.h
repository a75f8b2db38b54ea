// What Python says about the logits of a context, checked.
#pragma once

#include <pybind11/numpy.h>

#include <vector>

#include "evaluate/likelihood.h"
#include "llama/context.h"

namespace apex::bind {

namespace py = pybind11;

using Indices = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

// 0 stands for all threads that there are.
int to_threads(int threads);

// The rows of the last batch. Throws py::value_error.
evaluate::Logits logits_of(const llama::Context & context);

// Throws py::value_error where there is no such row.
std::vector<int64_t> to_rows(const Indices & rows, const evaluate::Logits & logits);

}  // namespace apex::bind
