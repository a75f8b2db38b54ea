// The kernels once per instruction set. Each function is defined where its file is compiled.
#pragma once

#include "isa/kernel_table.h"

namespace apex::isa {

const KernelTable & scalar();    // one lane: any CPU, any compiler
const KernelTable & baseline();  // x86-64: four lanes
const KernelTable & avx2();      // AVX2 and F16C: eight lanes
const KernelTable & avx512();    // AVX-512 F, BW, DQ, VL: sixteen lanes
const KernelTable & neon();      // arm64: four lanes

}  // namespace apex::isa
