// Kernels whose results are known: one for each kind of thing the emulator stands in for.
#include "core/cuda.h"
#include "core/mma.cuh"
#include "kernels.h"

namespace values {
namespace {

using wsol::cuda::launch;

// Runs `kernel(in, out, rest...)` in one block of as many threads as values.
template <typename Out, typename In, typename... Rest>
std::vector<Out> run(void (*kernel)(const In*, Out*, Rest...), const std::vector<In>& values,
                     std::type_identity_t<Rest>... rest) {
  std::vector<Out> out(values.size());
  launch("values", kernel, 1, static_cast<unsigned>(values.size()), 0, 0, values.data(), out.data(),
         rest...);
  return out;
}

constexpr int kManyThreads = 256;

// Runs `kernel(in, out, count)` over values of any number.
template <typename Out, typename In>
std::vector<Out> run_many(void (*kernel)(const In*, Out*, size_t), const std::vector<In>& values) {
  std::vector<Out> out(values.size());
  launch("values", kernel, wsol::cuda::blocks_for(values.size(), kManyThreads), kManyThreads, 0, 0,
         values.data(), out.data(), values.size());
  return out;
}

__global__ void shuffle_kernel(const int* in, int* out, int source, int width) {
  out[threadIdx.x] = __shfl_sync(wsol::cuda::kFullWarp, in[threadIdx.x], source, width);
}
__global__ void shuffle_up_kernel(const int* in, int* out, unsigned delta, int width) {
  out[threadIdx.x] = __shfl_up_sync(wsol::cuda::kFullWarp, in[threadIdx.x], delta, width);
}
__global__ void shuffle_down_kernel(const int* in, int* out, unsigned delta, int width) {
  out[threadIdx.x] = __shfl_down_sync(wsol::cuda::kFullWarp, in[threadIdx.x], delta, width);
}
__global__ void shuffle_xor_kernel(const int* in, int* out, int lane_mask, int width) {
  out[threadIdx.x] = __shfl_xor_sync(wsol::cuda::kFullWarp, in[threadIdx.x], lane_mask, width);
}
__global__ void shuffle_doubles_kernel(const double* in, double* out) {
  out[threadIdx.x] = __shfl_xor_sync(wsol::cuda::kFullWarp, in[threadIdx.x], 1);
}

__global__ void match_any_kernel(const int* in, int* out) {
  out[threadIdx.x] = static_cast<int>(__match_any_sync(wsol::cuda::kFullWarp, in[threadIdx.x]));
}

// The lanes outside the mask do something else, as they may.
__global__ void votes_kernel(const int* predicates, unsigned* out, unsigned mask) {
  if ((mask >> threadIdx.x & 1) == 0) return;
  const int predicate = predicates[threadIdx.x];
  const unsigned ballot = __ballot_sync(mask, predicate);
  const int any = __any_sync(mask, predicate), all = __all_sync(mask, predicate);
  out[0] = ballot;
  out[1] = any;
  out[2] = all;
}
__global__ void reductions_kernel(const int* in, int* out, unsigned mask) {
  if ((mask >> threadIdx.x & 1) == 0) return;
  const int sum = __reduce_add_sync(mask, in[threadIdx.x]);
  const int least = __reduce_min_sync(mask, in[threadIdx.x]);
  const int most = __reduce_max_sync(mask, in[threadIdx.x]);
  out[0] = sum;
  out[1] = least;
  out[2] = most;
}

__global__ void block_votes_kernel(const int* predicates, int* out) {
  const int predicate = predicates[threadIdx.x];
  const int count = __syncthreads_count(predicate);
  const int all = __syncthreads_and(predicate), any = __syncthreads_or(predicate);
  if (threadIdx.x == blockDim.x - 1) {
    out[0] = count;
    out[1] = all;
    out[2] = any;
  }
}

__global__ void atomics_kernel(const int* values, int* cells) {
  const int value = values[blockIdx.x];
  atomicAdd(&cells[0], value);
  atomicSub(&cells[1], value);
  atomicMin(&cells[2], value);
  atomicMax(&cells[3], value);
  atomicAnd(&cells[4], value);
  atomicOr(&cells[5], value);
  atomicXor(&cells[6], value);
  atomicExch(&cells[7], 7);
  atomicCAS(&cells[8], 0, 8);
}
__global__ void atomic_sum_kernel(const double* values, double* sum) {
  atomicAdd(sum, values[blockIdx.x * blockDim.x + threadIdx.x]);
}

__global__ void thread_ranks_kernel(int* out) {
  out[(threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x] =
      static_cast<int>(threadIdx.x + 100 * threadIdx.y + 10000 * threadIdx.z);
}

template <typename Half>
__global__ void half_to_float_kernel(const uint16_t* bits, float* out, size_t count) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  Half half;
  memcpy(&half, bits + i, sizeof(half));
  out[i] = wsol::cuda::Element<Half>::load(half);
}
template <typename Half>
__global__ void float_to_half_kernel(const float* values, uint16_t* out, size_t count) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const Half half = wsol::cuda::Element<Half>::store(values[i]);
  memcpy(out + i, &half, sizeof(half));
}

template <typename Half>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* sum) {
  const int lane = threadIdx.x;
  const uint32_t registers[4] = {a[lane * 4], a[lane * 4 + 1], a[lane * 4 + 2], a[lane * 4 + 3]};
  float sums[4];
  memcpy(sums, sum + lane * 4, sizeof(sums));
  wsol::cuda::mma<Half>(sums, registers, b[lane * 2], b[lane * 2 + 1]);
  memcpy(sum + lane * 4, sums, sizeof(sums));
}

template <bool kTransposed>
__global__ void load_matrices_kernel(const uint16_t* rows, uint32_t* out) {
  auto* shared = reinterpret_cast<uint16_t*>(wsol::cuda::dynamic_shared());
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) shared[lane * 8 + i] = rows[lane * 8 + i];
  __syncthreads();
  uint32_t matrices[4];
  wsol::cuda::load_matrices<kTransposed>(matrices, shared + lane * 8);
  memcpy(out + lane * 4, matrices, sizeof(matrices));
}

__global__ void bit_functions_kernel(unsigned word, int* out) {
  out[0] = __popc(word);
  out[1] = __clz(word);
  out[2] = __ffs(word);
  out[3] = static_cast<int>(__brev(word));
}

__global__ void shared_limits_kernel() {}

}  // namespace

Ints shuffle(const Ints& values, int source, int width) {
  return run(shuffle_kernel, values, source, width);
}
Ints shuffle_up(const Ints& values, unsigned delta, int width) {
  return run(shuffle_up_kernel, values, delta, width);
}
Ints shuffle_down(const Ints& values, unsigned delta, int width) {
  return run(shuffle_down_kernel, values, delta, width);
}
Ints shuffle_xor(const Ints& values, int lane_mask, int width) {
  return run(shuffle_xor_kernel, values, lane_mask, width);
}
std::vector<double> shuffle_doubles(const std::vector<double>& values) {
  return run(shuffle_doubles_kernel, values);
}
Ints match_any(const Ints& values) { return run(match_any_kernel, values); }
std::vector<unsigned> votes(const Ints& predicates, unsigned mask) {
  return run(votes_kernel, predicates, mask);
}
Ints reductions(const Ints& values, unsigned mask) { return run(reductions_kernel, values, mask); }
Ints block_votes(const Ints& predicates) { return run(block_votes_kernel, predicates); }

Ints atomics(const Ints& values) {
  Ints cells{0, 0, 1000, -1000, -1, 0, 0, 0, 0};
  launch("values", atomics_kernel, static_cast<unsigned>(values.size()), 1, 0, 0, values.data(),
         cells.data());
  return cells;
}
double atomic_sum(const std::vector<double>& values) {
  double sum = 0;
  launch("values", atomic_sum_kernel, static_cast<unsigned>(values.size()) / 2, 2, 0, 0,
         values.data(), &sum);
  return sum;
}

Ints thread_ranks(unsigned x, unsigned y, unsigned z) {
  Ints out(x * y * z);
  launch("values", thread_ranks_kernel, 1, dim3(x, y, z), 0, 0, out.data());
  return out;
}

std::vector<float> half_to_float(const std::vector<uint16_t>& bits) {
  return run_many(half_to_float_kernel<__half>, bits);
}
std::vector<uint16_t> float_to_half(const std::vector<float>& values) {
  return run_many(float_to_half_kernel<__half>, values);
}
std::vector<float> bfloat16_to_float(const std::vector<uint16_t>& bits) {
  return run_many(half_to_float_kernel<__nv_bfloat16>, bits);
}
std::vector<uint16_t> float_to_bfloat16(const std::vector<float>& values) {
  return run_many(float_to_half_kernel<__nv_bfloat16>, values);
}

template <typename Half>
std::vector<float> run_mma(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                           std::vector<float> sum) {
  launch("values", mma_kernel<Half>, 1, 32, 0, 0, a.data(), b.data(), sum.data());
  return sum;
}
std::vector<float> mma_half(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                            const std::vector<float>& sum) {
  return run_mma<__half>(a, b, sum);
}
std::vector<float> mma_bfloat16(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                                const std::vector<float>& sum) {
  return run_mma<__nv_bfloat16>(a, b, sum);
}

std::vector<uint32_t> load_matrices(const std::vector<uint16_t>& rows, bool transposed) {
  std::vector<uint32_t> out(32 * 4);
  launch("values", transposed ? load_matrices_kernel<true> : load_matrices_kernel<false>, 1, 32,
         rows.size() * sizeof(uint16_t), 0, rows.data(), out.data());
  return out;
}

Ints shared_limits(const Ints& sizes) {
  for (int bytes : sizes) launch("values", shared_limits_kernel, 1, 1, bytes, 0);
  const std::lock_guard lock(emulator::shared_limits_mutex);
  return emulator::shared_limits[reinterpret_cast<const void*>(shared_limits_kernel)];
}

Ints bit_functions(unsigned word) {
  Ints out(4);
  launch("values", bit_functions_kernel, 1, 1, 0, 0, word, out.data());
  return out;
}

}  // namespace values
