// Stands in for CUDA's header of half precision: conversions round to nearest even; arithmetic is
// in float, rounded after each operation.
#pragma once

#include "cuda_runtime.h"

struct __half {
  uint16_t bits;

  __half() = default;
  __half(float value) : bits(std::bit_cast<uint16_t>(static_cast<_Float16>(value))) {}
  // Directly: rounding to float first would round twice.
  __half(double value) : bits(std::bit_cast<uint16_t>(static_cast<_Float16>(value))) {}
  __half(int value) : __half(static_cast<double>(value)) {}
  operator float() const { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
  friend __half operator+(__half a, __half b) { return float(a) + float(b); }
  friend __half operator-(__half a, __half b) { return float(a) - float(b); }
  friend __half operator*(__half a, __half b) { return float(a) * float(b); }
  friend __half operator/(__half a, __half b) { return float(a) / float(b); }
};

struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) { return value; }
inline __half __float2half(float value) { return value; }
inline __half __float2half_rn(float value) { return value; }
inline __half __double2half(double value) { return value; }
inline float2 __half22float2(__half2 value) { return {value.x, value.y}; }
inline __half2 __float22half2_rn(float2 value) { return {value.x, value.y}; }
