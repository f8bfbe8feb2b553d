// A tensor as a kernel's host entry sees it: memory, element type, sizes and strides. Nothing of
// libtorch, so that one build serves every torch version; Python checked the arguments and
// allocated the outputs.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace wsol {

enum class DType { kBool, kUInt8, kInt16, kInt32, kInt64, kFloat16, kBFloat16, kFloat32, kFloat64 };

struct TensorView {
  static constexpr int kMaxDims = 6;

  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int dims = 0;
  std::array<int64_t, kMaxDims> shape{};
  std::array<int64_t, kMaxDims> strides{};  // in elements

  int64_t size(int dim) const { return shape[dim]; }
  int64_t stride(int dim) const { return strides[dim]; }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

using Stream = uintptr_t;  // a cudaStream_t, as torch.cuda.Stream.cuda_stream gives it

// Thrown for what Python should have refused: a mistake of ours, not of the caller's.
[[noreturn]] inline void unsupported_dtype(const char* operator_name) {
  throw std::logic_error(std::string(operator_name) + ": no kernel for this dtype");
}

template <typename T>
struct ElementTag {
  using type = T;
};

// Calls `run(ElementTag<T>{})` with the element type of a floating dtype; CPU and CUDA have half
// types of their own.
template <typename Half, typename BFloat16, typename Run>
void dispatch_floating(const char* operator_name, DType dtype, Run&& run) {
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

// The same where there are no half types.
template <typename Run>
void with_float_or_double(const char* operator_name, DType dtype, Run&& run) {
  if (dtype == DType::kFloat32) return run(ElementTag<float>{});
  if (dtype == DType::kFloat64) return run(ElementTag<double>{});
  unsupported_dtype(operator_name);
}

}  // namespace wsol
