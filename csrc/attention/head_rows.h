// How kernels see (B, H, rows, D) tensors whose last dimension is contiguous.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "core/tensor_view.h"

namespace wsol {

// One head's rows.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  WSOL_HOST_DEVICE Rows(T* first, int64_t row_stride) : data(first), stride(row_stride) {}
  Rows(const TensorView& view, int64_t image, int64_t head)
      : data(view.data == nullptr
                 ? nullptr
                 : view.as<T>() + image * view.stride(0) + head * view.stride(1)),
        stride(view.stride(2)) {}
  template <typename U>
  WSOL_HOST_DEVICE Rows(const Rows<U>& rows) : data(rows.data), stride(rows.stride) {}
  WSOL_HOST_DEVICE T* operator[](int64_t index) const { return data + index * stride; }
};

// The rows of all heads.
template <typename T>
struct HeadRows {
  T* data;
  int64_t image_stride, head_stride, row_stride;

  HeadRows(const TensorView& view)
      : data(view.as<T>()),
        image_stride(view.stride(0)),
        head_stride(view.stride(1)),
        row_stride(view.stride(2)) {}
  WSOL_HOST_DEVICE Rows<T> of(int64_t image, int64_t head) const {
    return {data + image * image_stride + head * head_stride, row_stride};
  }
  WSOL_HOST_DEVICE T* row(int64_t image, int64_t head, int64_t index) const {
    return of(image, head)[index];
  }
};

// Sizes of a few queries and all keys of each head.
struct QueryKeySizes {
  int64_t images, heads, queries, tokens, width;

  QueryKeySizes(const TensorView& query, const TensorView& key)
      : images(query.size(0)),
        heads(query.size(1)),
        queries(query.size(2)),
        tokens(key.size(2)),
        width(query.size(3)) {}
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

}  // namespace wsol
