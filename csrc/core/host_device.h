// WSOL_HOST_DEVICE before a function lets CPU and CUDA kernels share it: what both must compute bit
// for bit. (A macro: attributes cannot be named any other way.)
#pragma once

#if defined(__CUDACC__)
#define WSOL_HOST_DEVICE __host__ __device__
#else
#define WSOL_HOST_DEVICE
#endif
