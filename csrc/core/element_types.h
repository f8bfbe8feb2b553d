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

template <typename T>
struct ElementTag {
  using type = T;
};

// Calls `run(ElementTag<T>{})` with the C++ type of a floating dtype.
template <typename Run>
void with_floating_type(const char* operator_name, DType dtype, Run&& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(ElementTag<float>{});
    case DType::kFloat64:
      return run(ElementTag<double>{});
    case DType::kBFloat16:
      return run(ElementTag<BFloat16>{});
    case DType::kFloat16:
      return run(ElementTag<Half>{});
    default:
      unsupported_dtype(operator_name);
  }
}

}  // namespace wsol::cpu
