// exp of numbers that are not positive, in a form that compilers vectorize: the one of <cmath> is
// called number by number.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace wsol::cpu {

// For x <= 0 (or above it by rounding), or NaN, which stays one. Within 2 units in the last place;
// 0 where exp(x) is below the normal numbers. 2^n exp(r) with |r| <= log(2) / 2, by exp's series to
// r^7.
inline float exp_of_nonpositive(float x) {
  constexpr float kRound = 0x1.8p23f;  // a float this large has no fraction
  constexpr float kLog2High = 0x1.63p-1f, kLog2Low = -0x1.bd0106p-13f;
  const float shifted = x * 0x1.715476p+0f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLog2High) - n * kLog2Low;
  float series = 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const uint32_t exponent =
      std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound) + 127u;
  return x < -87.0f ? 0.0f : series * std::bit_cast<float>(exponent << 23);
}

inline double exp_of_nonpositive(double x) { return std::exp(x); }

}  // namespace wsol::cpu
