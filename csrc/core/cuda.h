// What every CUDA kernel stands on: launches that check themselves, dynamic shared memory, and warp
// reductions.
//
// The same .cu files compile for the host over tests/emulator, which is why kernels launch through
// `launch`, keep all their shared memory in `dynamic_shared`, and use these warp helpers instead of
// CUB.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/host_device.h"
#include "core/tensor_view.h"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "wsol_ext needs compute capability 8.0 or newer: leave older architectures out of CUDAARCHS"
#endif

namespace wsol::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

inline void check(const char* operator_name, cudaError_t status) {
  if (status != cudaSuccess) {
    (void)cudaGetLastError();  // else the next call that looks would blame itself for this one
    throw std::runtime_error(std::string(operator_name) +
                             ": CUDA error: " + cudaGetErrorString(status));
  }
}

constexpr size_t kSharedBytesOfAnyKernel = 48 * 1024;  // what is more must be asked for

// The most shared memory that a block can have on this thread's device.
inline int shared_bytes_of_device(const char* operator_name) {
  int device = 0, bytes = 0;
  check(operator_name, cudaGetDevice(&device));
  check(operator_name,
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

inline int multiprocessors_of_device(const char* operator_name) {
  int device = 0, count = 0;
  check(operator_name, cudaGetDevice(&device));
  check(operator_name, cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Lets `kernel` have all the shared memory that a block can have on this thread's device. Once for
// each of both: were the limit that of each launch, another thread's smaller launch could lower it
// before this one has begun.
inline void allow_all_shared(const char* operator_name, const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  check(operator_name, cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  if (allowed.contains({kernel, device})) return;
  check(operator_name, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            shared_bytes_of_device(operator_name)));
  allowed.insert({kernel, device});
}

// Launches `kernel` on `stream` and turns a failed launch into an exception that names the
// operator.
template <typename... Parameters, typename... Arguments>
void launch(const char* operator_name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, Stream stream, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > kSharedBytesOfAnyKernel) {
    allow_all_shared(operator_name, reinterpret_cast<const void*>(kernel));
  }
#if defined(WSOL_EMULATOR)
  (void)stream;
  emulator::launch(operator_name, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                   [&] { kernel(static_cast<Parameters>(arguments)...); });
#elif defined(__CUDACC__)  // and not where only a host compiler reads this
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  check(operator_name, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
#endif
}

// As many lanes, a power of two, as share a row of so many pieces: just enough for one each, so
// that a warp reads several rows at once.
WSOL_HOST_DEVICE inline int lanes_for(int64_t pieces) {
  int lanes = kWarpSize;
  while (lanes / 2 >= pieces) lanes /= 2;
  return lanes;
}

inline unsigned blocks_for(int64_t items, int per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

// The block's dynamic shared memory, 16-byte aligned, of the size its launch asked for.
__device__ inline unsigned char* dynamic_shared() {
#if defined(WSOL_EMULATOR)
  return emulator::dynamic_shared();
#else
  extern __shared__ __align__(16) unsigned char wsol_dynamic_shared[];
  return wsol_dynamic_shared;
#endif
}

// blockIdx.x, read anew: what is computed of it, after a loop that wants all registers, need not
// wait in some of them since before.
__device__ inline unsigned block_index_again() {
#if defined(WSOL_EMULATOR)
  return blockIdx.x;
#else
  unsigned index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
#endif
}

template <typename T>
__device__ inline T warp_sum(T value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, offset);
  }
  return value;
}

template <typename T>
__device__ inline T warp_max(T value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kFullWarp, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// The block's combination of all its threads' values, given to all of them. `partial` is shared
// memory for one value a warp, and holds the warps' values afterwards.
template <typename T, typename Combine>
__device__ T block_reduce(T value, T* partial, int warps, const Combine& combine) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(kFullWarp, value, offset));
  }
  __syncthreads();  // whoever still reads what `partial` held before
  if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  value = partial[0];
  for (int warp = 1; warp < warps; ++warp) value = combine(value, partial[warp]);
  return value;
}

template <typename T>
__device__ T block_max(T value, T* partial) {
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  return block_reduce(value, partial, warps, [](T a, T b) { return b > a ? b : a; });
}

template <typename T>
__device__ T block_sum(T value, T* partial) {
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  return block_reduce(value, partial, warps, [](T a, T b) { return a + b; });
}

// The sum of the values of the block's threads before this one, and of all. `partial` is shared
// memory for one value a warp.
struct ExclusiveSum {
  int before, total;
};
__device__ inline ExclusiveSum block_exclusive_sum(int value, int* partial) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int warps = blockDim.x / kWarpSize;
  int up_to_here = value;
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const int other = __shfl_up_sync(kFullWarp, up_to_here, offset);
    if (lane >= offset) up_to_here += other;
  }
  __syncthreads();  // whoever still reads what `partial` held before
  if (lane == kWarpSize - 1) partial[warp] = up_to_here;
  __syncthreads();
  ExclusiveSum sum{up_to_here - value, 0};
  for (int other = 0; other < warps; ++other) {
    if (other < warp) sum.before += partial[other];
    sum.total += partial[other];
  }
  return sum;
}

__device__ inline int lowest_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }

// The lowest bits that are set next to each other.
__device__ inline unsigned lowest_piece(unsigned bits) { return bits & ~(bits + (bits & -bits)); }

// Converts between element types and the type they are accumulated in.
template <typename T>
struct Element {
  using Accumulator = float;
  __device__ static float load(T value) { return static_cast<float>(value); }
  __device__ static T store(float value) { return static_cast<T>(value); }
};
template <>
struct Element<double> {
  using Accumulator = double;
  __device__ static double load(double value) { return value; }
  __device__ static double store(double value) { return value; }
};
template <>
struct Element<__half> {
  using Accumulator = float;
  __device__ static float load(__half value) { return __half2float(value); }
  __device__ static __half store(float value) { return __float2half(value); }
};
template <>
struct Element<__nv_bfloat16> {
  using Accumulator = float;
  __device__ static float load(__nv_bfloat16 value) { return __bfloat162float(value); }
  __device__ static __nv_bfloat16 store(float value) { return __float2bfloat16(value); }
};

#endif  // __CUDACC__ || WSOL_EMULATOR

// Calls `run(ElementTag<T>{})` with the device type of a floating dtype.
template <typename Run>
void with_floating_type(const char* operator_name, DType dtype, Run&& run) {
  dispatch_floating<__half, __nv_bfloat16>(operator_name, dtype, run);
}

}  // namespace wsol::cuda
