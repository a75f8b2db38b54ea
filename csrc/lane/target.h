// What compilers have to be told, a GPU's above all.
#pragma once

// A function that a GPU thread runs too: nvcc compiles it twice, for the host and for the device.
#if defined(__CUDACC__)
#define APEX_HOST_DEVICE __host__ __device__
#else
#define APEX_HOST_DEVICE
#endif

// A loop over an array that a GPU has to keep in registers, which have no addresses.
#if defined(__CUDA_ARCH__)
#define APEX_UNROLL _Pragma("unroll")
#else
#define APEX_UNROLL
#endif
