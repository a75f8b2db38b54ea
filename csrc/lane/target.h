// Functions that a GPU thread runs too.
#pragma once

// nvcc compiles what is marked so twice, for the host and for the device; others see nothing.
#if defined(__CUDACC__)
#define APEX_HOST_DEVICE __host__ __device__
#else
#define APEX_HOST_DEVICE
#endif
