// Stands in for the CUDA runtime's header: what kernels use of the language and of its built-in
// functions.
//
// Left out on purpose, so that they do not compile: `__shared__` (kernels keep shared memory in
// `dynamic_shared`, where an overrun is seen), `__activemask` (its answer is an accident), and
// atomics on types that nvcc would refuse.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

// --- vector types

#define EMULATOR_VECTORS(name, T, alignment2, alignment4)            \
  struct alignas(alignment2) name##2 { T x, y; };                    \
  struct name##3 { T x, y, z; };                                     \
  struct alignas(alignment4) name##4 { T x, y, z, w; };              \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATOR_VECTORS(char, signed char, 2, 4)
EMULATOR_VECTORS(uchar, unsigned char, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(ushort, unsigned short, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
EMULATOR_VECTORS(longlong, long long, 16, 16)
EMULATOR_VECTORS(ulonglong, unsigned long long, 16, 16)
#undef EMULATOR_VECTORS
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// --- barriers. The default argument names the line of the call.

using CallSite = std::source_location;

inline void __syncthreads(const CallSite& where = CallSite::current()) {
  emulator::barrier("__syncthreads", false, where);
}
inline int __syncthreads_count(int predicate, const CallSite& where = CallSite::current()) {
  return emulator::barrier("__syncthreads_count", predicate != 0, where);
}
inline int __syncthreads_and(int predicate, const CallSite& where = CallSite::current()) {
  return emulator::barrier("__syncthreads_and", predicate == 0, where) == 0;
}
inline int __syncthreads_or(int predicate, const CallSite& where = CallSite::current()) {
  return emulator::barrier("__syncthreads_or", predicate != 0, where) != 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const CallSite& where = CallSite::current()) {
  emulator::exchange("__syncwarp", mask, 0, where);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// --- warp operations

namespace emulator {

template <typename T, typename... Types>
concept OneOf = (std::same_as<T, Types> || ...);

// What a lane brings to an exchange, in 64 bits.
template <typename T>
uint64_t pack(const T& value) {
  static_assert((sizeof(T) == 2 && !std::is_integral_v<T>) || sizeof(T) == 4 || sizeof(T) == 8,
                "CUDA shuffles no such type");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T unpack(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned vote(const char* operation, unsigned mask, bool predicate, const CallSite& where) {
  const WarpValues& values = exchange(operation, mask, predicate, where);
  unsigned ballot = 0;
  for (int i = 0; i < warpSize; ++i) {
    if (mask >> i & 1) ballot |= static_cast<unsigned>(values[i]) << i;
  }
  return ballot;
}

template <typename T, typename Combine>
T reduce(const char* operation, unsigned mask, T value, const CallSite& where, Combine combine) {
  static_assert(OneOf<T, int, unsigned>, "CUDA reduces only int and unsigned");
  const WarpValues& values = exchange(operation, mask, pack(value), where);
  const int first = std::countr_zero(mask);
  T result = unpack<T>(values[first]);
  for (int i = first + 1; i < warpSize; ++i) {
    if (mask >> i & 1) result = combine(result, unpack<T>(values[i]));
  }
  return result;
}

// The value of the lane `source` where that is in this lane's part of the warp, `width` lanes wide;
// else this lane's own.
template <typename T>
T shuffle(const char* operation, unsigned mask, T value, int source, int width,
          const CallSite& where) {
  const int first = lane() & ~(width - 1);
  const bool inside = source >= first && source < first + width;
  return unpack<T>(exchange(operation, mask, pack(value), where)[inside ? source : lane()]);
}

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              const CallSite& where = CallSite::current()) {
  const int first = emulator::lane() & ~(width - 1);
  return emulator::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), width,
                           where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 const CallSite& where = CallSite::current()) {
  return emulator::shuffle("__shfl_up_sync", mask, value,
                           emulator::lane() - static_cast<int>(delta), width, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   const CallSite& where = CallSite::current()) {
  return emulator::shuffle("__shfl_down_sync", mask, value,
                           emulator::lane() + static_cast<int>(delta), width, where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  const CallSite& where = CallSite::current()) {
  return emulator::shuffle("__shfl_xor_sync", mask, value, emulator::lane() ^ lane_mask, width,
                           where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              const CallSite& where = CallSite::current()) {
  return emulator::vote("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, const CallSite& where = CallSite::current()) {
  return emulator::vote("__any_sync", mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, const CallSite& where = CallSite::current()) {
  return emulator::vote("__all_sync", mask, predicate != 0, where) == mask;
}

// The lanes whose value has the same bits.
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, const CallSite& where = CallSite::current()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA compares only 4 or 8 bytes");
  const emulator::WarpValues& values =
      emulator::exchange("__match_any_sync", mask, emulator::pack(value), where);
  unsigned same = 0;
  for (int i = 0; i < warpSize; ++i) {
    if (mask >> i & 1) same |= unsigned{values[i] == emulator::pack(value)} << i;
  }
  return same;
}

template <typename T>
T __reduce_add_sync(unsigned mask, T value, const CallSite& where = CallSite::current()) {
  return emulator::reduce("__reduce_add_sync", mask, value, where, [](T a, T b) { return a + b; });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value, const CallSite& where = CallSite::current()) {
  return emulator::reduce("__reduce_min_sync", mask, value, where,
                          [](T a, T b) { return std::min(a, b); });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value, const CallSite& where = CallSite::current()) {
  return emulator::reduce("__reduce_max_sync", mask, value, where,
                          [](T a, T b) { return std::max(a, b); });
}

// --- atomics: plain, for nothing interrupts a thread between two barriers

namespace emulator {

template <typename T, typename Change>
EMULATOR_UNCOUNTED T update(T* address, Change change) {
  record(Access::kAtomic, address, sizeof(T), __builtin_return_address(0));
  const T old = *address;
  *address = change(old);
  return old;
}

template <typename T>
concept Bits = OneOf<T, int, unsigned, unsigned long long>;
template <typename T>
concept Ordered = Bits<T> || std::same_as<T, long long>;
template <typename T>
concept Addable = Bits<T> || std::floating_point<T>;
template <typename T>
concept Word = Bits<T> || OneOf<T, unsigned short>;

}  // namespace emulator

template <emulator::Addable T>
[[gnu::always_inline]] inline T atomicAdd(T* address, std::type_identity_t<T> value) {
  return emulator::update(address, [=](T old) { return old + value; });
}
template <emulator::OneOf<int, unsigned> T>
[[gnu::always_inline]] inline T atomicSub(T* address, std::type_identity_t<T> value) {
  return emulator::update(address, [=](T old) { return old - value; });
}
template <emulator::Ordered T>
[[gnu::always_inline]] inline T atomicMin(T* address, std::type_identity_t<T> value) {
  return emulator::update(address, [=](T old) { return std::min(old, value); });
}
template <emulator::Ordered T>
[[gnu::always_inline]] inline T atomicMax(T* address, std::type_identity_t<T> value) {
  return emulator::update(address, [=](T old) { return std::max(old, value); });
}
template <emulator::Bits T>
[[gnu::always_inline]] inline T atomicAnd(T* address, std::type_identity_t<T> value) {
  return emulator::update(address, [=](T old) { return old & value; });
}
template <emulator::Bits T>
[[gnu::always_inline]] inline T atomicOr(T* address, std::type_identity_t<T> value) {
  return emulator::update(address, [=](T old) { return old | value; });
}
template <emulator::Bits T>
[[gnu::always_inline]] inline T atomicXor(T* address, std::type_identity_t<T> value) {
  return emulator::update(address, [=](T old) { return old ^ value; });
}
template <typename T>
  requires emulator::Bits<T> || std::same_as<T, float>
[[gnu::always_inline]] inline T atomicExch(T* address, std::type_identity_t<T> value) {
  return emulator::update(address, [=](T) { return value; });
}
template <emulator::Word T>
[[gnu::always_inline]] inline T atomicCAS(T* address, std::type_identity_t<T> expected,
                                          std::type_identity_t<T> value) {
  return emulator::update(address, [=](T old) { return old == expected ? value : old; });
}

// --- arithmetic. <math.h> gives exp, log, sqrt, fabs, fma ... of float and of double, by their
// plain names.

template <typename A, typename B>
  requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmin(static_cast<T>(a), static_cast<T>(b));  // the number, where the other is a NaN
  } else {
    return std::min(static_cast<T>(a), static_cast<T>(b));
  }
}
template <typename A, typename B>
  requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmax(static_cast<T>(a), static_cast<T>(b));
  } else {
    return std::max(static_cast<T>(a), static_cast<T>(b));
  }
}

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __saturatef(float x) { return x > 0 ? fminf(x, 1) : 0; }
inline float __fdividef(float x, float y) { return x / y; }
// Macros, since glibc declares functions of these names.
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
// One rounding each: what keeps nvcc from fusing a product with a sum. Host code is built with
// -ffp-contract=off.
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(unsigned x) { return std::countl_zero(x); }
inline int __clzll(unsigned long long x) { return std::countl_zero(x); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
inline int __ffsll(unsigned long long x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }

template <typename T>
T __ldg(const T* address) {
  return *address;
}

[[noreturn]] inline void __trap() { throw std::runtime_error("__trap()"); }

// --- the host's side: memory is the host's, and everything has happened when a call returns

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice, cudaMemcpyDeviceToHost, cudaMemcpyHostToDevice };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
};

inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }  // launches throw
inline cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t = nullptr) {
  if (bytes > 0) std::memset(address, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t = nullptr) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 2;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = int{emulator::kMaxSharedBytes};
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 8;
      break;
  }
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (bytes > int{emulator::kMaxSharedBytes}) return cudaErrorInvalidValue;
  const std::lock_guard lock(emulator::shared_limits_mutex);
  emulator::shared_limits[kernel].push_back(bytes);
  return cudaSuccess;
}
