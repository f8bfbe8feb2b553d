// Element types of CPU kernels, and the type each is accumulated in.
#pragma once

#include <bit>
#include <cstdint>

#include "core/tensor_view.h"

namespace wsol::cpu {

using Half = _Float16;

struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  BFloat16(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value);
    const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    // Round to nearest even; a NaN keeps a payload bit so that it stays one.
    bits = is_nan ? static_cast<uint16_t>((word >> 16) | 0x40u)
                  : static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
  operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

template <typename T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

// Calls `run(ElementTag<T>{})` with the C++ type of a floating dtype.
template <typename Run>
void with_floating_type(const char* operator_name, DType dtype, Run&& run) {
  dispatch_floating<Half, BFloat16>(operator_name, dtype, run);
}

}  // namespace wsol::cpu
