// An operator's scratch memory: bytes that Python allocates, as many as `<operator>_scratch_bytes`
// says of the sizes, each backend its own. An intermediate of the formulas, a tensor that is the
// same on all of them, is a member of the operator's struct instead.
#pragma once

#include <cstdint>

#include "core/tensor_view.h"

namespace wsol {

// Cuts scratch memory up. Of a tensor without memory, the parts are nowhere, but `bytes` is what
// they take.
class ScratchParts {
 public:
  explicit ScratchParts(const TensorView& memory)
      : first_(reinterpret_cast<uintptr_t>(memory.data)) {}

  template <typename T>
  void take(T*& part, int64_t count) {
    part = reinterpret_cast<T*>(first_ + bytes_);
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  }
  int64_t bytes() const { return bytes_; }  // of the parts so far

 private:
  static constexpr int64_t kAlignment = 16;

  uintptr_t first_;
  int64_t bytes_ = 0;
};

}  // namespace wsol
