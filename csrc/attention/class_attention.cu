// CUDA: a few short launches a direction, so that every one of them has a block for each part of
// its work whatever B, H, N.
//
//   logits      a warp owns kRowsPerWarp key rows of one (image, head), lanes split the row in
//   16-byte pieces; the head's
//               queries lie in shared memory. Reads every key once: this is the kernel that
//               bandwidth limits.
//   softmax     a warp owns one row of logits (B, H, Q): softmax forward, its gradient backward.
//   combine     forward: a thread owns one out[b, q, j] and sums over heads. Backward: the
//               gradients of query_key.cuh, which read every key a second time.
//
// The (B, H, Q, N) scratch is 1/D of the keys' size for each query.
#include <algorithm>

#include "attention/class_attention.h"
#include "attention/query_key.cuh"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRowsPerWarp = 8;
constexpr int kRowsPerBlock = kWarps * kRowsPerWarp;
constexpr int64_t kQueryBytes = 16 * 1024;  // of shared memory: leaves room for several blocks

template <typename T, int kVector>
__global__ void logits_kernel(HeadRows<const T> query, HeadRows<const T> key, QueryKeySizes n,
                              int64_t first_query, int64_t queries_here,
                              typename Element<T>::Accumulator scale,
                              typename Element<T>::Accumulator* logits) {
  using A = typename Element<T>::Accumulator;
  A* queries = reinterpret_cast<A*>(dynamic_shared());
  const int64_t image = blockIdx.x / n.heads, head = blockIdx.x % n.heads;
  for (int64_t i = threadIdx.x; i < queries_here * n.width; i += kThreads) {
    queries[i] = Element<T>::load(query.row(image, head, first_query + i / n.width)[i % n.width]);
  }
  __syncthreads();

  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsPerBlock + warp * kRowsPerWarp;
  const int64_t pieces = n.width / kVector;
  const int group = lanes_for(pieces);
  const int rows_at_once = kWarpSize / group;
  const int member = lane % group;
  for (int step = 0; step < kRowsPerWarp; step += rows_at_once) {
    const int64_t j = first + step + lane / group;
    const bool present = j < n.tokens && step + lane / group < kRowsPerWarp;
    const T* row = key.row(image, head, present ? j : 0);
    for (int64_t q = 0; q < queries_here; ++q) {
      const A* weights = queries + q * n.width;
      A sum = 0;
      if (present) {
        for (int64_t piece = member; piece < pieces; piece += group) {
          const auto loaded = reinterpret_cast<const Vector<T, kVector>*>(row)[piece];
#pragma unroll
          for (int i = 0; i < kVector; ++i) {
            sum += Element<T>::load(loaded.values[i]) * weights[piece * kVector + i];
          }
        }
      }
      for (int offset = group / 2; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(kFullWarp, sum, offset);
      }
      if (present && member == 0) {
        const int64_t row_of_logits = blockIdx.x * n.queries + first_query + q;
        logits[row_of_logits * n.tokens + j] = scale * sum;
      }
    }
  }
}

// Softmax of a row of logits in place, by one warp.
template <typename A>
__device__ void softmax_row(A* row, int64_t tokens, int lane) {
  A largest = row[0];
  for (int64_t j = lane; j < tokens; j += kWarpSize) largest = max(largest, row[j]);
  largest = warp_max(largest);
  A sum = 0;
  for (int64_t j = lane; j < tokens; j += kWarpSize) sum += exp(row[j] - largest);
  const A factor = 1 / warp_sum(sum);
  for (int64_t j = lane; j < tokens; j += kWarpSize) row[j] = exp(row[j] - largest) * factor;
}

template <typename A>
__global__ void softmax_kernel(A* logits, int64_t rows, int64_t tokens) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (index < rows) softmax_row(logits + index * tokens, tokens, threadIdx.x % kWarpSize);
}

template <typename A>
__global__ void average_kernel(const A* probabilities, QueryKeySizes n, int64_t total, A* out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const int64_t rows = n.queries * n.tokens;
  const A* first = probabilities + index / rows * n.heads * rows + index % rows;
  A sum = 0;
  for (int64_t head = 0; head < n.heads; ++head) sum += first[head * rows];
  out[index] = sum / static_cast<A>(n.heads);
}

// Turns a row of logits into the gradient of the loss with respect to query . key.
template <typename A>
__global__ void softmax_gradient_kernel(A* logits, const A* grad_out, QueryKeySizes n, int64_t rows,
                                        A scale) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (index >= rows) return;  // a whole warp at a time
  const int64_t image = index / n.queries / n.heads, q = index % n.queries;
  A* row = logits + index * n.tokens;
  const A* grad = grad_out + (image * n.queries + q) * n.tokens;
  softmax_row(row, n.tokens, lane);
  A expected = 0;  // sum_j p_j dL/dp_j
  for (int64_t j = lane; j < n.tokens; j += kWarpSize) expected += row[j] * grad[j];
  expected = warp_sum(expected);
  const A factor = scale / static_cast<A>(n.heads);
  for (int64_t j = lane; j < n.tokens; j += kWarpSize) row[j] *= (grad[j] - expected) * factor;
}

template <typename T>
void logits(const char* name, const TensorView& query, const TensorView& key, double scale,
            const TensorView& out, Stream stream) {
  using A = typename Element<T>::Accumulator;
  const QueryKeySizes n(query, key);
  const dim3 grid(static_cast<unsigned>(n.images * n.heads), blocks_for(n.tokens, kRowsPerBlock));
  constexpr int kVector = 16 / sizeof(T);
  const auto kernel = rows_are_aligned<T>(key) ? logits_kernel<T, kVector> : logits_kernel<T, 1>;
  // As many queries a launch as fit beside each other in shared memory: usually the one there is.
  const int64_t query_bytes = n.width * sizeof(A);
  const int64_t at_once = std::clamp<int64_t>(kQueryBytes / query_bytes, 1, n.queries);
  for (int64_t first = 0; first < n.queries; first += at_once) {
    const int64_t here = std::min(at_once, n.queries - first);
    launch(name, kernel, grid, kThreads, here * query_bytes, stream, HeadRows<const T>(query),
           HeadRows<const T>(key), n, first, here, static_cast<A>(scale), out.as<A>());
  }
}

}  // namespace

void class_attention_forward(const ClassAttentionForward& args, Stream stream) {
  constexpr const char* kName = "class_attention";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const QueryKeySizes n(args.query, args.key);
    const int64_t rows = n.images * n.heads * n.queries;
    const int64_t total = n.images * n.queries * n.tokens;
    A* scratch = args.probabilities.as<A>();
    logits<T>(kName, args.query, args.key, args.scale, args.probabilities, stream);
    launch(kName, softmax_kernel<A>, blocks_for(rows, kWarps), kThreads, 0, stream, scratch, rows,
           n.tokens);
    launch(kName, average_kernel<A>, blocks_for(total, kThreads), kThreads, 0, stream, scratch, n,
           total, args.out.as<A>());
  });
}

void class_attention_backward(const ClassAttentionBackward& args, Stream stream) {
  constexpr const char* kName = "class_attention_backward";
  with_floating_type(kName, args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = typename Element<T>::Accumulator;
    const QueryKeySizes n(args.query, args.key);
    const int64_t rows = n.images * n.heads * n.queries;
    A* scratch = args.grad_logits.as<A>();
    logits<T>(kName, args.query, args.key, args.scale, args.grad_logits, stream);
    launch(kName, softmax_gradient_kernel<A>, blocks_for(rows, kWarps), kThreads, 0, stream,
           scratch, args.grad_out.as<A>(), n, rows, static_cast<A>(args.scale));
    dot_gradients<T>(kName, args.query, args.key, args.grad_logits, args.grad_query, args.grad_key,
                     stream);
  });
}

}  // namespace wsol::cuda
