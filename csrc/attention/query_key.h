// CPU: what operators on the dot products of a few queries with all keys of a head share.
//
// For inlining into functions that carry WSOL_MULTIVERSION.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/head_rows.h"

namespace wsol::cpu {

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

// Gradients of a head's dot products query[q] . key[j], given the loss's gradient by them (Q, N).
// `sums` is memory for `width` numbers.
template <typename T, typename A>
inline void dot_gradients(Rows<const T> query, Rows<const T> key, const QueryKeySizes& n,
                          Rows<const A> grad_dots, Rows<T> grad_query, Rows<T> grad_key, A* sums) {
  const auto add = [&](A weight, const T* row) {
#pragma omp simd
    for (int64_t d = 0; d < n.width; ++d) sums[d] += weight * static_cast<A>(row[d]);
  };
  const auto store = [&](T* row) {
    for (int64_t d = 0; d < n.width; ++d) row[d] = static_cast<T>(sums[d]);
  };
  for (int64_t q = 0; q < n.queries; ++q) {
    std::fill(sums, sums + n.width, A(0));
    for (int64_t j = 0; j < n.tokens; ++j) add(grad_dots[q][j], key[j]);
    store(grad_query[q]);
  }
  for (int64_t j = 0; j < n.tokens; ++j) {
    std::fill(sums, sums + n.width, A(0));
    for (int64_t q = 0; q < n.queries; ++q) add(grad_dots[q][j], query[q]);
    store(grad_key[j]);
  }
}

}  // namespace wsol::cpu
