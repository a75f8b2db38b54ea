// The tables of the formats: upstream's own header, with internal linkage in every instruction set,
// or in a GPU's memory.
#pragma once

#if defined(__CUDACC__)
#define GGML_COMMON_DECL_CUDA
#define GGML_COMMON_IMPL_CUDA
#else
#define GGML_COMMON_DECL_CPP
#define GGML_COMMON_IMPL_CPP
#endif
#include <ggml-common.h>

// A function that reads them: for a GPU, nvcc puts them where the host must not read.
#if defined(__CUDACC__)
#define APEX_READS_TABLE __device__
#else
#define APEX_READS_TABLE
#endif
