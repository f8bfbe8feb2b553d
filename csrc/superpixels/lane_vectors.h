// Vectors of int32 of a given size, with the two instructions that GCC's vector types cannot name.
// To be used inside of with_vectors.
#pragma once

#include <cstdint>

#include "core/multiversion.h"

namespace wsol::cpu {

// GCC loses a vector_size that depends on a template's argument, so each size is written out.
template <int kBytes>
struct LaneTypes;

template <>
struct LaneTypes<16> {
  typedef int32_t Aligned __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16), aligned(4), may_alias));
  typedef int16_t Shorts __attribute__((vector_size(8), aligned(2), may_alias));
  typedef int16_t Pairs __attribute__((vector_size(16)));
  typedef float Floats __attribute__((vector_size(16)));
};
template <>
struct LaneTypes<32> {
  typedef int32_t Aligned __attribute__((vector_size(32)));
  typedef int32_t Ints __attribute__((vector_size(32), aligned(4), may_alias));
  typedef int16_t Shorts __attribute__((vector_size(16), aligned(2), may_alias));
  typedef int16_t Pairs __attribute__((vector_size(32)));
  typedef float Floats __attribute__((vector_size(32)));
};
template <>
struct LaneTypes<64> {
  typedef int32_t Aligned __attribute__((vector_size(64)));
  typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
  typedef int16_t Shorts __attribute__((vector_size(32), aligned(2), may_alias));
  typedef int16_t Pairs __attribute__((vector_size(64)));
  typedef float Floats __attribute__((vector_size(64)));
};

template <int kBytes>
struct Lanes {
  static constexpr int kCount = kBytes / 4;
  using Aligned = typename LaneTypes<kBytes>::Aligned;
  using Ints = typename LaneTypes<kBytes>::Ints;
  using Shorts = typename LaneTypes<kBytes>::Shorts;
  using Pairs = typename LaneTypes<kBytes>::Pairs;
  using Floats = typename LaneTypes<kBytes>::Floats;

  static Aligned load(const int32_t* from) { return *reinterpret_cast<const Ints*>(from); }
  static Aligned load(const int16_t* from) {
    return __builtin_convertvector(*reinterpret_cast<const Shorts*>(from), Aligned);
  }
  static void store(int32_t* to, Aligned value) { *reinterpret_cast<Ints*>(to) = value; }
  // Not Aligned{} + value, which GCC puts together element by element where it inlines this.
  static Aligned all(int32_t value) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    typedef int32_t Four __attribute__((vector_size(16)));
    if constexpr (kBytes == 64) {
      return (Aligned)__builtin_ia32_pbroadcastd512_gpr_mask(value, Aligned{}, 0xffff);
    } else if constexpr (kBytes == 32) {
      return (Aligned)__builtin_ia32_pbroadcastd256(Four{value});
    }
#endif
    return Aligned{} + value;
  }

  // Each lane is two int16: the sums of their two products.
  static Aligned pair_products(Aligned one, Aligned other) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if constexpr (kBytes == 64) {
      return (Aligned)__builtin_ia32_pmaddwd512_mask((Pairs)one, (Pairs)other, Aligned{}, 0xffff);
    } else if constexpr (kBytes == 32) {
      return (Aligned)__builtin_ia32_pmaddwd256((Pairs)one, (Pairs)other);
    } else {
      return (Aligned)__builtin_ia32_pmaddwd128((Pairs)one, (Pairs)other);
    }
#else
    return ((one << 16) >> 16) * ((other << 16) >> 16) + (one >> 16) * (other >> 16);
#endif
  }

  // The same, added to `sum`; with kDots by one instruction.
  template <bool kDots>
  static Aligned plus_pair_products(Aligned sum, Aligned one, Aligned other) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if constexpr (kDots) return (Aligned)__builtin_ia32_vpdpwssd_v16si(sum, one, other);
#endif
    return sum + pair_products(one, other);
  }

  // The differences of both, lanes as above.
  static Aligned pair_differences(Aligned one, Aligned other) {
    return (Aligned)((Pairs)one - (Pairs)other);
  }

  // Each lane in float32, times the factor, towards zero.
  static Aligned scaled(Aligned value, float factor) {
    return __builtin_convertvector(__builtin_convertvector(value, Floats) * factor, Aligned);
  }

  // A bit for each lane that is negative.
  static uint32_t sign_bits(Aligned value) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if constexpr (kBytes == 64) {
      return __builtin_ia32_cvtd2mask512(value);
    } else if constexpr (kBytes == 32) {
      return __builtin_ia32_movmskps256((Floats)value);
    } else {
      return __builtin_ia32_movmskps((Floats)value);
    }
#else
    uint32_t bits = 0;
    for (int i = 0; i < kCount; ++i) bits |= uint32_t{value[i] < 0} << i;
    return bits;
#endif
  }

  // table[index[i]] of a table of 8, in memory of at least kCount.
  static Aligned look_up(const int32_t* table, Aligned index) {
#if defined(__GNUC__) && !defined(__clang__)
    if constexpr (kCount >= 8) return __builtin_shuffle(load(table), index);
#endif
    Aligned found;
    for (int i = 0; i < kCount; ++i) found[i] = table[index[i]];
    return found;
  }
};

}  // namespace wsol::cpu
