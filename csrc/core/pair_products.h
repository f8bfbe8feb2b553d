// Products of matrices of 16-bit integers with sums of 32 bits, twice as fast as those of float32:
// matrix_product.h multiplies them as it does others, an element being a pair of neighbours along
// the depth, in 32 bits.
#pragma once

#include <cstdint>

#include "core/matrix_product.h"
#include "core/multiversion.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WSOL_X86_PAIRS  // as in multiversion.h
#endif

namespace wsol::cpu {

// The shortest vectors, which every machine has.
struct PlainPairTiling : Tiling<int32_t, 16> {
  static inline void add_product(Vector& sum, int32_t factor, const Vector& row) {
#if defined(__SSE2__)
    sum += (Vector)_mm_madd_epi16(_mm_set1_epi32(factor), (__m128i)row);
#else
    const int32_t lower = static_cast<int16_t>(factor), upper = factor >> 16;
    sum += lower * (row << 16 >> 16) + upper * (row >> 16);
#endif
  }
};

#if defined(WSOL_X86_PAIRS)
struct Avx2PairTiling : Tiling<int32_t, 32> {
  __attribute__((target("arch=x86-64-v3"))) static inline void add_product(Vector& sum,
                                                                           int32_t factor,
                                                                           const Vector& row) {
    sum += (Vector)_mm256_madd_epi16(_mm256_set1_epi32(factor), (__m256i)row);
  }
};

struct Avx512PairTiling : Tiling<int32_t, 64> {
  __attribute__((target("arch=x86-64-v4"))) static inline void add_product(Vector& sum,
                                                                           int32_t factor,
                                                                           const Vector& row) {
    sum += (Vector)_mm512_madd_epi16(_mm512_set1_epi32(factor), (__m512i)row);
  }
};

struct VnniPairTiling : Tiling<int32_t, 64> {  // in one instruction
  __attribute__((target("arch=x86-64-v4,avx512vnni"))) static inline void add_product(
      Vector& sum, int32_t factor, const Vector& row) {
    sum = (Vector)_mm512_dpwssd_epi32((__m512i)sum, _mm512_set1_epi32(factor), (__m512i)row);
  }
};

template <typename Work>
__attribute__((target("arch=x86-64-v4,avx512vnni"), flatten)) void with_vnni(const Work& work) {
  work.template operator()<VnniPairTiling>();
}
#endif

// with_pair_tiling(work) calls `work.operator()<Tile>()`, compiled for this machine's instructions;
// its vectors are as long as those of with_vectors.
template <typename Work>
void with_pair_tiling(const Work& work) {
#if defined(WSOL_X86_PAIRS)
  with_vectors([&]<int kBytes>() {
    if constexpr (kBytes == 64) {
      if (__builtin_cpu_supports("avx512vnni")) return with_vnni(work);
      work.template operator()<Avx512PairTiling>();
    } else if constexpr (kBytes == 32) {
      work.template operator()<Avx2PairTiling>();
    } else {
      work.template operator()<PlainPairTiling>();
    }
  });
#else
  work.template operator()<PlainPairTiling>();
#endif
}

}  // namespace wsol::cpu
