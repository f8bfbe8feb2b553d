// CPU: one task a (image, head), which reads that head's keys once, forward, and once more,
// backward. Limited by the bandwidth of reading the keys.
#include "attention/class_attention.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "attention/query_key.h"
#include "core/element_types.h"
#include "core/exp.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

// One query's softmax over a head's tokens.
template <typename T, typename A>
inline void softmax_row(const T* query, Rows<const T> key, const QueryKeySizes& n, A scale,
                        A* row) {
  std::fill(row, row + n.tokens, A(0));
  add_dots<T, A>(query, key, 0, n.tokens, n.width, row);
  A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < n.tokens; ++j) {
    row[j] *= scale;
    largest = row[j] > largest ? row[j] : largest;
  }
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n.tokens; ++j) {
    row[j] = exp_of_nonpositive(row[j] - largest);
    sum += row[j];
  }
  const A factor = A(1) / sum;
  for (int64_t j = 0; j < n.tokens; ++j) row[j] *= factor;
}

template <typename T, typename A>
WSOL_MULTIVERSION void head_forward(Rows<const T> query, Rows<const T> key, const QueryKeySizes& n,
                                    A scale, A* probabilities) {
  for (int64_t q = 0; q < n.queries; ++q) {
    softmax_row(query[q], key, n, scale, probabilities + q * n.tokens);
  }
}

template <typename A>
WSOL_MULTIVERSION void mean_of_heads(const A* probabilities, int64_t heads, int64_t rows, A* out) {
  std::copy(probabilities, probabilities + rows, out);
  for (int64_t head = 1; head < heads; ++head) {
    const A* row = probabilities + head * rows;
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i) out[i] += row[i];
  }
  const A per_head = A(1) / static_cast<A>(heads);
  for (int64_t i = 0; i < rows; ++i) out[i] *= per_head;
}

template <typename T, typename A>
WSOL_MULTIVERSION void head_backward(Rows<const T> query, Rows<const T> key, const QueryKeySizes& n,
                                     A scale, const A* grad_out, Rows<A> grad_dots,
                                     Rows<T> grad_query, Rows<T> grad_key, A* sums) {
  const A factor = scale / static_cast<A>(n.heads);
  for (int64_t q = 0; q < n.queries; ++q) {
    A* row = grad_dots[q];
    const A* grad = grad_out + q * n.tokens;
    softmax_row(query[q], key, n, scale, row);
    A expected = 0;  // sum_j p_j dL/dp_j
#pragma omp simd reduction(+ : expected)
    for (int64_t j = 0; j < n.tokens; ++j) expected += row[j] * grad[j];
    for (int64_t j = 0; j < n.tokens; ++j) row[j] *= (grad[j] - expected) * factor;
  }
  dot_gradients<T, A>(query, key, n, grad_dots, grad_query, grad_key, sums);
}

}  // namespace

void class_attention_forward(const ClassAttentionForward& args, int threads) {
  with_floating_type("class_attention", args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = Accumulator<T>;
    const QueryKeySizes n(args.query, args.key);
    const int64_t rows = n.queries * n.tokens;
    // (B, H, Q, N), of each head.
    const std::unique_ptr<A[]> memory(new A[n.images * n.heads * rows]);
    A* const probabilities = memory.get();
    const int64_t grain = tasks_a_thread(rows * n.width);
    parallel_for(n.images * n.heads, grain, threads, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / n.heads, head = task % n.heads;
        head_forward<T, A>({args.query, image, head}, {args.key, image, head}, n,
                           static_cast<A>(args.scale), probabilities + task * rows);
      }
    });
    // A separate pass, so that the sum over heads has one order whatever the number of threads.
    parallel_for(n.images, tasks_a_thread(8 * n.heads * rows), threads, [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        mean_of_heads<A>(probabilities + image * n.heads * rows, n.heads, rows,
                         args.out.as<A>() + image * rows);
      }
    });
  });
}

void class_attention_backward(const ClassAttentionBackward& args, int threads) {
  with_floating_type("class_attention", args.query.dtype, [&]<typename T>(ElementTag<T>) {
    using A = Accumulator<T>;
    const QueryKeySizes n(args.query, args.key);
    const int64_t rows = n.queries * n.tokens;
    const int64_t grain = tasks_a_thread(3 * rows * n.width);
    parallel_for(n.images * n.heads, grain, threads, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<A[]> memory(new A[n.width + rows]);
      A* const sums = memory.get();
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / n.heads, head = task % n.heads;
        head_backward<T, A>(
            {args.query, image, head}, {args.key, image, head}, n, static_cast<A>(args.scale),
            args.grad_out.as<A>() + image * rows, {sums + n.width, n.tokens},
            {args.grad_query, image, head}, {args.grad_key, image, head}, sums);
      }
    });
  });
}

}  // namespace wsol::cpu
