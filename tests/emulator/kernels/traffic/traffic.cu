#include "core/cuda.h"
#include "core/mma.cuh"
#include "traffic.h"

namespace wsol::cuda {
namespace {

constexpr int kSide = 32;  // of a square of floats, and of its block of threads

__device__ int thread() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

__global__ void copy_kernel(const float* in, float* out) { out[thread()] = in[thread()]; }

__global__ void copy_vectors_kernel(const float4* in, float4* out) {
  auto* shared = reinterpret_cast<float4*>(dynamic_shared());
  shared[threadIdx.x] = in[thread()];
  float4 value = shared[threadIdx.x];
  value.x += 1;
  out[thread()] = value;
}

struct Four {
  float x, y, z, w;
};

__global__ void copy_structs_kernel(const Four* in, Four* out) { out[thread()] = in[thread()]; }

__global__ void copy_columns_kernel(const float* in, float* out) {
  out[thread()] = in[threadIdx.x * kSide + blockIdx.x];
}

template <typename T, int kPitch>
__global__ void transpose_kernel(const T* in, T* out) {
  auto* shared = reinterpret_cast<T*>(dynamic_shared());
  const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;
  shared[row * kPitch + column] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = shared[column * kPitch + row];
}

__global__ void add_all_kernel(const float* in, float* out) {
  float sum = 0;
  for (unsigned i = 0; i < blockDim.x; ++i) sum += in[i];
  out[thread()] = sum;
}

__global__ void copy_even_kernel(const float* in, float* out) {
  if (threadIdx.x % 2 == 0) out[thread()] = in[thread()];
}

__global__ void copy_by_halves_kernel(const float* in, float* out) {
  if (threadIdx.x % 2 == 0) {
    out[thread()] = in[thread()];
  } else {
    out[thread()] = in[thread()] + 1;
  }
}

__global__ void count_values_kernel(const int* in, int* out) { atomicAdd(&out[in[thread()]], 1); }

template <int kPitchBytes>
__global__ void load_matrices_kernel(uint32_t* out) {
  uint32_t matrices[4];
  load_matrices<false>(matrices, dynamic_shared() + threadIdx.x * kPitchBytes);
  out[threadIdx.x] = matrices[0];
}

template <typename T, int kPitch>
void run_transpose(const Traffic& args, Stream stream) {
  launch("transpose", transpose_kernel<T, kPitch>, 1, kSide * kSide, kSide * kPitch * sizeof(T),
         stream, args.in.as<const T>(), args.out.as<T>());
}

// A block of `kSide` threads for each of as many values.
template <typename In, typename Out>
void run(void (*kernel)(const In*, Out*), const Traffic& args, Stream stream) {
  const int64_t values = args.in.size(0) * static_cast<int64_t>(sizeof(float)) / sizeof(In);
  launch("traffic", kernel, blocks_for(values, kSide), kSide, kSide * sizeof(In), stream,
         args.in.as<const In>(), args.out.as<Out>());
}

template <int kPitchBytes>
void run_load_matrices(const Traffic& args, Stream stream) {
  launch("load_matrices", load_matrices_kernel<kPitchBytes>, 1, kSide, kSide * kPitchBytes, stream,
         args.out.as<uint32_t>());
}

}  // namespace

void copy(const Traffic& args, Stream stream) { run(copy_kernel, args, stream); }
void copy_vectors(const Traffic& args, Stream stream) { run(copy_vectors_kernel, args, stream); }
void copy_structs(const Traffic& args, Stream stream) { run(copy_structs_kernel, args, stream); }
void copy_columns(const Traffic& args, Stream stream) { run(copy_columns_kernel, args, stream); }
void transpose(const Traffic& args, Stream stream) { run_transpose<float, kSide>(args, stream); }
void transpose_padded(const Traffic& args, Stream stream) {
  run_transpose<float, kSide + 1>(args, stream);
}
void transpose_vectors(const Traffic& args, Stream stream) {
  run_transpose<float4, kSide>(args, stream);
}
void add_all(const Traffic& args, Stream stream) { run(add_all_kernel, args, stream); }
void copy_even(const Traffic& args, Stream stream) { run(copy_even_kernel, args, stream); }
void copy_by_halves(const Traffic& args, Stream stream) {
  run(copy_by_halves_kernel, args, stream);
}
void count_values(const Traffic& args, Stream stream) { run(count_values_kernel, args, stream); }
void load_matrices(const Traffic& args, Stream stream) { run_load_matrices<128>(args, stream); }
void load_matrices_padded(const Traffic& args, Stream stream) {
  run_load_matrices<144>(args, stream);
}

}  // namespace wsol::cuda
