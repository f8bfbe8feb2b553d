// CPU: one task a (image, head), which reads that head's keys once, forward, and once more,
// backward. Limited by the bandwidth of reading the keys.
#include "attention/class_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/element_types.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kGrain = 1;  // a head's keys are some 50 KB: enough for a task

struct Sizes {
  int64_t images, heads, queries, tokens, width;
};

Sizes sizes_of(const TensorView& query, const TensorView& key) {
  return {query.size(0), query.size(1), query.size(2), key.size(2), query.size(3)};
}

template <typename T>
inline T* head_of(const TensorView& tensor, int64_t image, int64_t head) {
  return tensor.as<T>() + image * tensor.stride(0) + head * tensor.stride(1);
}

template <typename T, typename A>
inline A dot(const T* a, const T* b, int64_t width) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < width; ++d) sum += static_cast<A>(a[d]) * static_cast<A>(b[d]);
  return sum;
}

// One query's softmax over a head's tokens.
template <typename T, typename A>
inline void softmax_row(const T* query, const T* key, int64_t key_stride, Sizes n, A scale,
                        A* row) {
  A largest = -std::numeric_limits<A>::infinity();
  for (int64_t j = 0; j < n.tokens; ++j) {
    row[j] = scale * dot<T, A>(query, key + j * key_stride, n.width);
    largest = std::max(largest, row[j]);
  }
  A sum = 0;
  for (int64_t j = 0; j < n.tokens; ++j) {
    row[j] = std::exp(row[j] - largest);
    sum += row[j];
  }
  const A factor = A(1) / sum;
  for (int64_t j = 0; j < n.tokens; ++j) row[j] *= factor;
}

template <typename T, typename A>
WSOL_MULTIVERSION void head_forward(const T* query, int64_t query_stride, const T* key,
                                    int64_t key_stride, Sizes n, A scale, A* probabilities) {
  for (int64_t q = 0; q < n.queries; ++q) {
    softmax_row(query + q * query_stride, key, key_stride, n, scale, probabilities + q * n.tokens);
  }
}

template <typename T, typename A>
WSOL_MULTIVERSION void head_backward(const T* query, int64_t query_stride, const T* key,
                                     int64_t key_stride, Sizes n, A scale, const A* grad_out,
                                     A* grad_logits, A* grad_row, T* grad_query,
                                     int64_t grad_query_stride, T* grad_key,
                                     int64_t grad_key_stride) {
  const A per_head = A(1) / static_cast<A>(n.heads);
  for (int64_t q = 0; q < n.queries; ++q) {
    A* row = grad_logits + q * n.tokens;
    const A* grad = grad_out + q * n.tokens;
    softmax_row(query + q * query_stride, key, key_stride, n, scale, row);
    A expected = 0;  // sum_j p_j dL/dp_j
    for (int64_t j = 0; j < n.tokens; ++j) expected += row[j] * grad[j];
    for (int64_t j = 0; j < n.tokens; ++j) row[j] *= (grad[j] - expected) * per_head * scale;

    for (int64_t d = 0; d < n.width; ++d) grad_row[d] = 0;
    for (int64_t j = 0; j < n.tokens; ++j) {
      const T* key_row = key + j * key_stride;
#pragma omp simd
      for (int64_t d = 0; d < n.width; ++d) grad_row[d] += row[j] * static_cast<A>(key_row[d]);
    }
    for (int64_t d = 0; d < n.width; ++d) {
      grad_query[q * grad_query_stride + d] = static_cast<T>(grad_row[d]);
    }
  }
  for (int64_t j = 0; j < n.tokens; ++j) {
    for (int64_t d = 0; d < n.width; ++d) grad_row[d] = 0;
    for (int64_t q = 0; q < n.queries; ++q) {
      const A weight = grad_logits[q * n.tokens + j];
      const T* query_row = query + q * query_stride;
#pragma omp simd
      for (int64_t d = 0; d < n.width; ++d) grad_row[d] += weight * static_cast<A>(query_row[d]);
    }
    for (int64_t d = 0; d < n.width; ++d) {
      grad_key[j * grad_key_stride + d] = static_cast<T>(grad_row[d]);
    }
  }
}

}  // namespace

void class_attention_forward(const ClassAttentionForward& args, int threads) {
  with_floating_type("class_attention", args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = Accumulator<T>;
    const Sizes n = sizes_of(args.query, args.key);
    const int64_t rows = n.queries * n.tokens;
    A* probabilities = args.probabilities.as<A>();
    parallel_for(n.images * n.heads, kGrain, threads, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / n.heads, head = task % n.heads;
        head_forward<T, A>(head_of<T>(args.query, image, head), args.query.stride(2),
                           head_of<T>(args.key, image, head), args.key.stride(2), n,
                           static_cast<A>(args.scale), probabilities + task * rows);
      }
    });
    // A separate pass, so that the sum over heads has one order whatever the number of threads.
    parallel_for(n.images, 16, threads, [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        const A* heads = probabilities + image * n.heads * rows;
        A* out = args.out.as<A>() + image * rows;
        std::copy(heads, heads + rows, out);
        for (int64_t head = 1; head < n.heads; ++head) {
          for (int64_t i = 0; i < rows; ++i) out[i] += heads[head * rows + i];
        }
        const A per_head = A(1) / static_cast<A>(n.heads);
        for (int64_t i = 0; i < rows; ++i) out[i] *= per_head;
      }
    });
  });
}

void class_attention_backward(const ClassAttentionBackward& args, int threads) {
  with_floating_type("class_attention", args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = Accumulator<T>;
    const Sizes n = sizes_of(args.query, args.key);
    const int64_t rows = n.queries * n.tokens;
    parallel_for(n.images * n.heads, kGrain, threads, [&](int64_t begin, int64_t end) {
      std::vector<A> grad_row(n.width);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / n.heads, head = task % n.heads;
        head_backward<T, A>(head_of<T>(args.query, image, head), args.query.stride(2),
                            head_of<T>(args.key, image, head), args.key.stride(2), n,
                            static_cast<A>(args.scale), args.grad_out.as<A>() + image * rows,
                            args.grad_logits.as<A>() + task * rows, grad_row.data(),
                            head_of<T>(args.grad_query, image, head), args.grad_query.stride(2),
                            head_of<T>(args.grad_key, image, head), args.grad_key.stride(2));
      }
    });
  });
}

}  // namespace wsol::cpu
