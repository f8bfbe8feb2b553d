// Stands in for PTX's tensor-core instructions and what goes with them, with their layout of
// fragments over a warp's lanes.
#pragma once

#include <array>
#include <limits>

#include "cuda_runtime.h"

namespace emulator {

// mma.sync.aligned.m16n8k16.row.col.f32: products are exact in float, their sum is taken in order,
// rounded to float each time. (Hardware leaves the order open.)
template <typename T>
void mma_m16n8k16(float (&sum)[4], const uint32_t (&a)[4], std::array<uint32_t, 2> b,
                  const CallSite& where = CallSite::current()) {
  static_assert(sizeof(T) == 2);
  constexpr unsigned kWarp = 0xffffffffu;
  const auto bring = [&](uint32_t low, uint32_t high) {
    return exchange("mma", kWarp, low | static_cast<uint64_t>(high) << 32, where);
  };
  const WarpValues registers[3] = {bring(a[0], a[1]), bring(a[2], a[3]), bring(b[0], b[1])};
  // Element `half` of register `index` of the six that a lane brings.
  const auto element = [&](int lane, int index, int half) -> float {
    const auto bits =
        static_cast<uint16_t>(registers[index / 2][lane] >> (index % 2 * 32 + half * 16));
    T value;
    std::memcpy(&value, &bits, sizeof(value));
    return static_cast<float>(value);
  };
  const auto element_of_a = [&](int row, int k) {
    return element(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2);
  };
  const auto element_of_b = [&](int k, int column) {
    return element(column * 4 + k % 8 / 2, 4 + k / 8, k % 2);
  };
  const int group = lane() / 4, member = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + i / 2 * 8, column = member * 2 + i % 2;
    for (int k = 0; k < 16; ++k) sum[i] += element_of_a(row, k) * element_of_b(k, column);
  }
}

// ex2.approx.ftz.f32
inline float ex2_approx_ftz(float x) {
  const float power = exp2f(x);
  return power < std::numeric_limits<float>::min() ? 0 : power;
}

// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16
EMULATOR_UNCOUNTED inline void ldmatrix_x4(uint32_t (&to)[4], const void* row, bool transposed,
                                           const CallSite& where = CallSite::current()) {
  demand_shared("ldmatrix", row, 16);
  record(Access::kRead, row, 16, __builtin_return_address(0));
  const WarpValues& rows =
      exchange("ldmatrix", 0xffffffffu, reinterpret_cast<uintptr_t>(row), where);
  const int group = lane() / 4, member = lane() % 4;
  const auto element = [&](int matrix, int i, int j) EMULATOR_UNCOUNTED {
    uint16_t bits;
    std::memcpy(&bits, reinterpret_cast<const uint16_t*>(rows[matrix * 8 + i]) + j, sizeof(bits));
    return static_cast<uint32_t>(bits);
  };
  for (int matrix = 0; matrix < 4; ++matrix) {
    to[matrix] =
        transposed
            ? element(matrix, 2 * member, group) | element(matrix, 2 * member + 1, group) << 16
            : element(matrix, group, 2 * member) | element(matrix, group, 2 * member + 1) << 16;
  }
}

}  // namespace emulator
