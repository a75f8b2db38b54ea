// The tables of the formats: upstream's own header, with internal linkage in every instruction set.
#pragma once

#define GGML_COMMON_DECL_CPP
#define GGML_COMMON_IMPL_CPP
#include <ggml-common.h>
