// torch's tensors by its table of C functions, which torch has had since 2.10: without a Python
// call a tensor says where its memory is, and a new one is made.
//
// The table is that of DLPack 1 (https://github.com/dmlc/dlpack, DLPackExchangeAPI), so that
// nothing of libtorch is linked. The structs are laid out as there.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <span>

#include "core/tensor_view.h"

namespace wsol::dlpack {

constexpr int32_t kCpu = 1, kCuda = 2;  // of Tensor::device_type
constexpr uint8_t kBool = 6;            // of Tensor::type_code

struct Tensor {
  void* data;
  int32_t device_type, device_index;
  int32_t dims;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct ManagedTensor {
  uint32_t major, minor;
  void* owner;
  void (*deleter)(ManagedTensor*);
  uint64_t flags;
  Tensor tensor;
};

struct Functions {
  using SetError = void (*)(void* context, const char* kind, const char* message);

  uint32_t major, minor;
  const Functions* older;
  int (*allocate)(Tensor* like, ManagedTensor** out, void* context, SetError set_error);
  int (*managed_from_python)(void* object, ManagedTensor** out);
  int (*to_python)(ManagedTensor* stolen, void** out);
  int (*from_python)(void* object, Tensor* out);
  int (*current_stream)(int32_t device_type, int32_t device_index, void** out);

  // nullptr where this torch has none.
  static const Functions* get() {
    namespace py = pybind11;
    static const Functions* const functions = []() -> const Functions* {
      const py::object tensor = py::module_::import("torch").attr("Tensor");
      const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
      constexpr const char* kName = "dlpack_exchange_api";
      if (PyCapsule_IsValid(capsule.ptr(), kName) == 0) return nullptr;
      const auto* found = static_cast<const Functions*>(PyCapsule_GetPointer(capsule.ptr(), kName));
      return found->major == 1 && found->from_python != nullptr ? found : nullptr;
    }();
    return functions;
  }
};

// The types of DLPack: 0 int, 1 uint, 2 float, 4 bfloat, 6 bool; how many bits.
struct Type {
  DType dtype;
  uint8_t code, bits;
};
constexpr std::array<Type, 9> kTypes{{{DType::kFloat32, 2, 32},
                                      {DType::kBFloat16, 4, 16},
                                      {DType::kFloat16, 2, 16},
                                      {DType::kFloat64, 2, 64},
                                      {DType::kUInt8, 1, 8},
                                      {DType::kInt32, 0, 32},
                                      {DType::kInt64, 0, 64},
                                      {DType::kBool, 6, 8},
                                      {DType::kInt16, 0, 16}}};

// What a tensor (an object of torch.Tensor) says of itself, which lives as long as the tensor does.
// False, and no error, where it says nothing: it is not strided, or not in memory, or torch has no
// such functions.
inline bool ask(PyObject* object, Tensor& answer) {
  const Functions* const torch = Functions::get();
  if (torch == nullptr) return false;
  if (torch->from_python(object, &answer) == 0) return true;
  PyErr_Clear();
  return false;
}

// Where a tensor has its values. Returns the device's type, or 0, and no error, where torch cannot
// say or a TensorView cannot hold it.
inline int32_t read(PyObject* object, TensorView& view) {
  Tensor tensor;
  if (!ask(object, tensor)) return 0;
  if (tensor.dims > TensorView::kMaxDims || tensor.type_lanes != 1) return 0;
  for (const Type& type : kTypes) {
    if (type.code != tensor.type_code || type.bits != tensor.type_bits) continue;
    view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    view.dtype = type.dtype;
    view.dims = tensor.dims;
    std::copy_n(tensor.shape, tensor.dims, view.shape.begin());
    std::copy_n(tensor.strides, tensor.dims, view.strides.begin());
    return tensor.device_type;
  }
  return 0;
}

// A new contiguous tensor on the CPU, as torch.empty makes it. Only where torch has the functions.
inline pybind11::object empty(DType dtype, std::span<const int64_t> shape, TensorView& view) {
  const Functions* const torch = Functions::get();
  Tensor like{};
  like.device_type = kCpu;
  like.dims = static_cast<int32_t>(shape.size());
  for (const Type& type : kTypes) {
    if (type.dtype == dtype) like.type_code = type.code, like.type_bits = type.bits;
  }
  like.type_lanes = 1;
  like.shape = const_cast<int64_t*>(shape.data());
  const auto set_error = [](void*, const char*, const char* message) {
    PyErr_SetString(PyExc_RuntimeError, message);
  };
  ManagedTensor* made = nullptr;
  void* object = nullptr;
  if (torch->allocate(&like, &made, nullptr, set_error) != 0) throw pybind11::error_already_set();
  view.data = made->tensor.data;
  view.dtype = dtype;
  view.dims = like.dims;
  int64_t stride = 1;
  for (int i = like.dims; i-- > 0; stride *= std::max<int64_t>(shape[i], 1)) {
    view.shape[i] = shape[i];
    view.strides[i] = made->tensor.strides[i] = stride;  // DLPack has 1 where the size is 1
  }
  if (torch->to_python(made, &object) != 0) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(static_cast<PyObject*>(object));
}

}  // namespace wsol::dlpack
