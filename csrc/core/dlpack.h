// The part of DLPack (dlpack.h, version 1.2 and later 1.x) by which torch tells where a tensor's
// memory is, in one call of C: torch publishes the function's address in a capsule, so no library
// of torch is linked. The names are DLPack's.
#pragma once

#include <cstdint>

namespace wsol::dlpack {

struct DLDevice {
  int32_t device_type;
  int32_t device_id;
};
constexpr int32_t kDLCPU = 1, kDLCUDA = 2;

struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
constexpr uint8_t kDLInt = 0, kDLUInt = 1, kDLFloat = 2, kDLBfloat = 4, kDLBool = 6;

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct DLPackExchangeAPI {
  uint32_t major, minor;
  DLPackExchangeAPI* prev_api;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  // Fills in what the tensor object owns; -1, and a Python error, where that is not possible.
  int (*dltensor_from_py_object_no_sync)(void* py_object, DLTensor* out);
  void* current_work_stream;
};

}  // namespace wsol::dlpack
