// WSOL_HOST_DEVICE before a function lets CPU and CUDA kernels share it: what both must compute bit
// for bit. WSOL_ONE_SIDE compiles it for the device in a .cu and for the host in a .cpp: what both
// share, but calls what only that side has. (Macros: attributes cannot be named any other way.)
#pragma once

#if defined(__CUDACC__)
#define WSOL_HOST_DEVICE __host__ __device__
#define WSOL_ONE_SIDE __device__
#else
#define WSOL_HOST_DEVICE
#define WSOL_ONE_SIDE
#endif
