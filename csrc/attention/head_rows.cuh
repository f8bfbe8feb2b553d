// How kernels see a (B, H, rows, D) tensor whose last dimension is contiguous.
#pragma once

#include "core/cuda.h"

namespace wsol::cuda {

template <typename T>
struct HeadRows {
  T* data;
  int64_t image_stride, head_stride, row_stride;

  HeadRows(const TensorView& view)
      : data(view.as<T>()),
        image_stride(view.stride(0)),
        head_stride(view.stride(1)),
        row_stride(view.stride(2)) {}
  __device__ T* row(int64_t image, int64_t head, int64_t index) const {
    return data + image * image_stride + head * head_stride + index * row_stride;
  }
};

template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Vector {
  T values[kVector];
};

// Whether every row starts on a 16-byte boundary and holds whole 16-byte pieces.
template <typename T>
bool rows_are_aligned(const TensorView& rows) {
  constexpr int64_t kVector = 16 / sizeof(T);
  const auto divides = [](int64_t value) { return value % kVector == 0; };
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && divides(rows.size(3)) &&
         divides(rows.stride(0)) && divides(rows.stride(1)) && divides(rows.stride(2));
}

}  // namespace wsol::cuda
