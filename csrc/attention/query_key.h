// CPU: what operators on the dot products of a few queries with all keys of a head share.
//
// For inlining into functions that carry WSOL_MULTIVERSION.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/head_rows.h"

namespace wsol::cpu {

// Products for which waking another thread pays, about: some ten microseconds of them.
constexpr int64_t kProductsOfATask = 256 * 1024;

// How many tasks of so many products one thread should take at least.
inline int64_t tasks_a_thread(int64_t products) {
  return std::max<int64_t>(1, kProductsOfATask / std::max<int64_t>(products, 1));
}

// Adds query . key[j] to sums[j], for j in [begin, end). Four keys at once: what waits for memory,
// as keys inside a fused qkv tensor do, waits for four.
template <typename T, typename A>
inline void add_dots(const T* query, Rows<const T> key, int64_t begin, int64_t end, int64_t width,
                     A* sums) {
  int64_t j = begin;
  for (; j + 4 <= end; j += 4) {
    const T *key0 = key[j], *key1 = key[j + 1], *key2 = key[j + 2], *key3 = key[j + 3];
    A sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
    for (int64_t d = 0; d < width; ++d) {
      const A weight = static_cast<A>(query[d]);
      sum0 += weight * static_cast<A>(key0[d]);
      sum1 += weight * static_cast<A>(key1[d]);
      sum2 += weight * static_cast<A>(key2[d]);
      sum3 += weight * static_cast<A>(key3[d]);
    }
    sums[j] += sum0;
    sums[j + 1] += sum1;
    sums[j + 2] += sum2;
    sums[j + 3] += sum3;
  }
  for (; j < end; ++j) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < width; ++d) {
      sum += static_cast<A>(query[d]) * static_cast<A>(key[j][d]);
    }
    sums[j] += sum;
  }
}

// Adds sum_j weights[j] rows[j] to `sums`. Four rows at once: the sums pass through memory.
template <typename T, typename A>
inline void add_weighted(const A* weights, Rows<const T> rows, int64_t count, int64_t width,
                         A* sums) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    const T *row0 = rows[j], *row1 = rows[j + 1], *row2 = rows[j + 2], *row3 = rows[j + 3];
    const A w0 = weights[j], w1 = weights[j + 1], w2 = weights[j + 2], w3 = weights[j + 3];
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) {
      sums[d] += (w0 * static_cast<A>(row0[d]) + w1 * static_cast<A>(row1[d])) +
                 (w2 * static_cast<A>(row2[d]) + w3 * static_cast<A>(row3[d]));
    }
  }
  for (; j < count; ++j) {
    const T* row = rows[j];
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) sums[d] += weights[j] * static_cast<A>(row[d]);
  }
}

// Gradients of a head's dot products query[q] . key[j], given the loss's gradient by them (Q, N);
// one without memory is not wanted. `sums` is memory for `width` numbers.
template <typename T, typename A>
inline void dot_gradients(Rows<const T> query, Rows<const T> key, const QueryKeySizes& n,
                          Rows<const A> grad_dots, Rows<T> grad_query, Rows<T> grad_key, A* sums) {
  const auto store = [&](T* row) {
    for (int64_t d = 0; d < n.width; ++d) row[d] = static_cast<T>(sums[d]);
  };
  for (int64_t q = 0; q < n.queries && grad_query.data != nullptr; ++q) {
    std::fill(sums, sums + n.width, A(0));
    add_weighted<T, A>(grad_dots[q], key, n.tokens, n.width, sums);
    store(grad_query[q]);
  }
  if (grad_key.data == nullptr) return;
  if (n.queries == 1) {
    for (int64_t d = 0; d < n.width; ++d) sums[d] = static_cast<A>(query[0][d]);
    for (int64_t j = 0; j < n.tokens; ++j) {
      const A weight = grad_dots[0][j];
      T* row = grad_key[j];
#pragma omp simd
      for (int64_t d = 0; d < n.width; ++d) row[d] = static_cast<T>(weight * sums[d]);
    }
    return;
  }
  for (int64_t j = 0; j < n.tokens; ++j) {
    std::fill(sums, sums + n.width, A(0));
    for (int64_t q = 0; q < n.queries; ++q) {
      const A weight = grad_dots[q][j];
      const T* row = query[q];
#pragma omp simd
      for (int64_t d = 0; d < n.width; ++d) sums[d] += weight * static_cast<A>(row[d]);
    }
    store(grad_key[j]);
  }
}

}  // namespace wsol::cpu
