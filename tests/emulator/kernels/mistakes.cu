// The mistakes that the emulator is there to find, one kernel each, beside the same kernel without
// it.
#include "core/cuda.h"
#include "core/mma.cuh"
#include "kernels.h"

namespace mistakes {
namespace {

using wsol::cuda::dynamic_shared;
using wsol::cuda::kFullWarp;
using wsol::cuda::launch;

constexpr int kThreads = 64;

__device__ float* shared_floats() { return reinterpret_cast<float*>(dynamic_shared()); }

// Runs a kernel on `out`, by default in one block, with a float of shared memory for each thread.
template <typename T = float>
std::vector<T> run(void (*kernel)(T*), int blocks = 1, int threads = kThreads) {
  std::vector<T> out(blocks * threads);
  launch("mistake", kernel, blocks, threads, threads * sizeof(float), 0, out.data());
  return out;
}

template <bool kCorrect>
__global__ void global_overrun_kernel(float* out) {
  out[kCorrect ? threadIdx.x : threadIdx.x + 1] = 1;
}

template <bool kCorrect>
__global__ void shared_overrun_kernel(float* out) {
  shared_floats()[kCorrect ? threadIdx.x : threadIdx.x + 1] = 1;
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void unwritten_shared_kernel(float* out) {
  if (kCorrect || threadIdx.x != 5) shared_floats()[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = shared_floats()[threadIdx.x];
}

// Each thread reads what its left neighbour wrote.
template <bool kCorrect>
__global__ void missing_barrier_kernel(float* out) {
  const unsigned i = threadIdx.x;
  shared_floats()[i] = static_cast<float>(i);
  __syncthreads();
  shared_floats()[i] *= 2;
  if (kCorrect) __syncthreads();
  out[i] = i > 0 ? shared_floats()[i - 1] : 0;
}

// Each block reads what the one before it wrote.
template <bool kCorrect>
__global__ void dependent_blocks_kernel(float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = !kCorrect && blockIdx.x > 0 ? out[i - blockDim.x] + 1 : 1;
}

template <bool kCorrect>
__global__ void divergent_barrier_kernel(float* out) {
  if (!kCorrect && threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void barriers_of_two_branches_kernel(float* out) {
  if (kCorrect || threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void divergent_shuffle_kernel(float* out) {
  if (!kCorrect && threadIdx.x % 32 == 7) return;
  out[threadIdx.x] = __shfl_xor_sync(kFullWarp, 1.0f, 1);
}

template <bool kCorrect>
__global__ void shuffle_of_two_masks_kernel(float* out) {
  const unsigned mask = kCorrect || threadIdx.x % 32 < 16 ? kFullWarp : 0xfffffffeu;
  out[threadIdx.x] = __shfl_xor_sync(mask, 1.0f, 1);
}

template <bool kCorrect>
__global__ void lane_outside_its_mask_kernel(float* out) {
  out[threadIdx.x] = __shfl_xor_sync(kCorrect ? kFullWarp : 0x0000ffffu, 1.0f, 1);
}

__global__ void shuffle_kernel(float* out) {
  out[threadIdx.x] = __shfl_xor_sync(kFullWarp, 1.0f, 1);
}

template <bool kCorrect>
__global__ void signed_overflow_kernel(int* out) {
  const int large = 0x7ffffff0;
  out[threadIdx.x] = large + static_cast<int>(kCorrect ? threadIdx.x % 16 : threadIdx.x);
}

template <bool kCorrect>
__global__ void misaligned_vector_kernel(float* out) {
  if (threadIdx.x == 0) *reinterpret_cast<float2*>(out + (kCorrect ? 2 : 1)) = {1, 1};
}

template <bool kCorrect>
__global__ void launch_too_large_kernel(float* out) {
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void matrix_row_off_its_boundary_kernel(float* out) {
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < blockDim.x; i += 32) shared_floats()[i] = 1;
  __syncthreads();
  uint32_t matrices[4];
  wsol::cuda::load_matrices<false>(matrices, shared_floats() + (!kCorrect && lane == 5 ? 2 : 0));
  out[lane] = 1;
}

template <bool kCorrect>
__global__ void matrix_row_outside_shared_kernel(float* out) {
  shared_floats()[threadIdx.x] = 1;
  __syncthreads();
  const auto address = (reinterpret_cast<uintptr_t>(out) + 15) & ~uintptr_t{15};
  uint32_t matrices[4];
  wsol::cuda::load_matrices<false>(matrices,
                                   kCorrect ? shared_floats() : reinterpret_cast<float*>(address));
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void copy_read_early_kernel(float* out) {
  float* const own = shared_floats() + threadIdx.x;
  wsol::cuda::copy_async<4>(own, out + threadIdx.x, true);
  if (kCorrect) wsol::cuda::wait_for_copies();
  out[threadIdx.x] = *own + 1;
  wsol::cuda::wait_for_copies();
}

// Each thread reads what its left neighbour wrote, and then copies over its own.
template <bool kCorrect>
__global__ void copy_over_what_is_read_kernel(float* out) {
  const unsigned i = threadIdx.x;
  shared_floats()[i] = static_cast<float>(i);
  __syncthreads();
  out[i] = i > 0 ? shared_floats()[i - 1] : 0;
  if (kCorrect) __syncthreads();
  wsol::cuda::copy_async<4>(shared_floats() + i, out + i, false);
  wsol::cuda::wait_for_copies();
}

template <bool kCorrect>
__global__ void copy_left_behind_kernel(float* out) {
  wsol::cuda::copy_async<4>(shared_floats() + threadIdx.x, out + threadIdx.x, true);
  if (kCorrect || threadIdx.x != 5) wsol::cuda::wait_for_copies();
}

template <bool kCorrect>
__global__ void copy_off_its_boundary_kernel(float* out) {
  if (threadIdx.x == 0) wsol::cuda::copy_async<8>(shared_floats(), out + (kCorrect ? 2 : 1), true);
  wsol::cuda::wait_for_copies();
}

}  // namespace

std::vector<float> global_overrun(bool correct) {
  return run(correct ? global_overrun_kernel<true> : global_overrun_kernel<false>);
}
std::vector<float> shared_overrun(bool correct) {
  return run(correct ? shared_overrun_kernel<true> : shared_overrun_kernel<false>);
}
std::vector<float> unwritten_shared(bool correct) {
  return run(correct ? unwritten_shared_kernel<true> : unwritten_shared_kernel<false>);
}
std::vector<float> missing_barrier(bool correct) {
  return run(correct ? missing_barrier_kernel<true> : missing_barrier_kernel<false>);
}
std::vector<float> dependent_blocks(bool correct) {
  return run(correct ? dependent_blocks_kernel<true> : dependent_blocks_kernel<false>, 3);
}
std::vector<float> divergent_barrier(bool correct) {
  return run(correct ? divergent_barrier_kernel<true> : divergent_barrier_kernel<false>);
}
std::vector<float> barriers_of_two_branches(bool correct) {
  return run(correct ? barriers_of_two_branches_kernel<true>
                     : barriers_of_two_branches_kernel<false>);
}
std::vector<float> divergent_shuffle(bool correct) {
  return run(correct ? divergent_shuffle_kernel<true> : divergent_shuffle_kernel<false>);
}
std::vector<float> shuffle_of_two_masks(bool correct) {
  return run(correct ? shuffle_of_two_masks_kernel<true> : shuffle_of_two_masks_kernel<false>);
}
std::vector<float> lane_outside_its_mask(bool correct) {
  return run(correct ? lane_outside_its_mask_kernel<true> : lane_outside_its_mask_kernel<false>);
}
std::vector<float> shuffle_with_missing_lanes(bool correct) {
  return run(shuffle_kernel, 1, correct ? 64 : 48);
}
std::vector<int> signed_overflow(bool correct) {
  return run<int>(correct ? signed_overflow_kernel<true> : signed_overflow_kernel<false>);
}
std::vector<float> misaligned_vector(bool correct) {
  return run(correct ? misaligned_vector_kernel<true> : misaligned_vector_kernel<false>);
}
std::vector<float> matrix_row_off_its_boundary(bool correct) {
  return run(correct ? matrix_row_off_its_boundary_kernel<true>
                     : matrix_row_off_its_boundary_kernel<false>);
}
std::vector<float> matrix_row_outside_shared(bool correct) {
  return run(correct ? matrix_row_outside_shared_kernel<true>
                     : matrix_row_outside_shared_kernel<false>);
}
std::vector<float> copy_read_early(bool correct) {
  return run(correct ? copy_read_early_kernel<true> : copy_read_early_kernel<false>);
}
std::vector<float> copy_over_what_is_read(bool correct) {
  return run(correct ? copy_over_what_is_read_kernel<true> : copy_over_what_is_read_kernel<false>);
}
std::vector<float> copy_left_behind(bool correct) {
  return run(correct ? copy_left_behind_kernel<true> : copy_left_behind_kernel<false>);
}
std::vector<float> copy_off_its_boundary(bool correct) {
  return run(correct ? copy_off_its_boundary_kernel<true> : copy_off_its_boundary_kernel<false>);
}
std::vector<float> launch_too_large(bool correct) {
  return run(launch_too_large_kernel<true>, 1, correct ? 1024 : 1025);
}

}  // namespace mistakes
