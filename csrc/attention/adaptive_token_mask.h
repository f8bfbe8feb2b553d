// The tokens that hold the largest attention, as long as their sum stays below a part of the row's.
//
// Sorted descending, equal values in order of their index, the kept tokens are the first ones: so
// nothing is sorted, but the value found at which the sum of all values no smaller reaches `mass`,
// the crossing value, by bisection over its bits. What is larger is kept, and so are the first of
// the tokens that equal it, as many as stay below.
//
// Sums are exact and so the same in any order: a row's values are cut to multiples of one unit, the
// smallest with which the row's sum fits 62 bits. (196 tokens: 54 bits for the largest value.)
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/host_device.h"
#include "core/tensor_view.h"

namespace wsol {

struct AdaptiveTokenMask {
  TensorView attention;  // (B, N) floating, last dimension contiguous
  TensorView keep;       // (B, N) bool, contiguous
  double mass;           // in [0, 1]
};

// A number's bits as an integer: of those that are not negative, the integer orders as they do.
template <typename A>
struct ValueBits {
  static constexpr bool kDouble = std::is_same_v<A, double>;
  using Word = std::conditional_t<kDouble, int64_t, int32_t>;
  static constexpr int kMantissa = kDouble ? 52 : 23;
  static constexpr int kHighest = kDouble ? 62 : 30;  // the bit below the sign
  static constexpr int64_t kInfinity = int64_t{kDouble ? 0x7ff : 0xff} << kMantissa;

  WSOL_HOST_DEVICE static int64_t of(A value) {
    Word word;
    value += 0;  // makes a zero of -0
    memcpy(&word, &value, sizeof(A));
    return word;
  }

  // Whether a row between these has only nonnegative finite values, and not only zeros.
  WSOL_HOST_DEVICE static bool are_valid(int64_t smallest, int64_t largest) {
    return smallest >= 0 && largest > 0 && largest < kInfinity;
  }

  // The number in units of which `largest` has unit_bits bits.
  WSOL_HOST_DEVICE static int64_t units(int64_t bits, int64_t largest, int unit_bits) {
    const int64_t exponent = bits >> kMantissa, top = largest >> kMantissa;
    const int64_t one = int64_t{1} << kMantissa;
    const int64_t significand = exponent == 0 ? bits : one | (bits & (one - 1));
    const int64_t below_top = (top == 0 ? 1 : top) - (exponent == 0 ? 1 : exponent);
    const int64_t shift = unit_bits - 1 - kMantissa - below_top;
    return shift >= 0 ? significand << shift : shift > -64 ? significand >> -shift : 0;
  }
};

// `unit_bits` for rows of N values, whose sum then fits 62.
inline int unit_bits_for(int64_t tokens) {
  int bits = 62;
  for (; tokens > 0; tokens /= 2) --bits;
  return bits;
}

// Sums below this stay below `mass` times the row's sum.
WSOL_HOST_DEVICE inline int64_t limit_of(int64_t row_sum, double mass) {
  const auto limit = static_cast<int64_t>(ceil(mass * static_cast<double>(row_sum)));
  return limit < row_sum ? limit : row_sum;
}

namespace cpu {
// Throws std::invalid_argument where a value is negative, infinite or NaN, or a row all zeros.
void adaptive_token_mask(const AdaptiveTokenMask& args, int threads);
}  // namespace cpu

namespace cuda {
// Keeps nothing of such a row.
void adaptive_token_mask(const AdaptiveTokenMask& args, Stream stream);
}  // namespace cuda

}  // namespace wsol
