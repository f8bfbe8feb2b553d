// Tensor-core products of half-precision matrices, a warp at a time, as PTX has them since compute
// capability 8.0, and what keeps up with them: copies that do not wait, powers of two.
//
// A fragment is a warp's share of a matrix, some registers a lane; for lane l, g = l / 4, t = l %
// 4:
//
//   a, 16 x 16   a[0]: row g,     columns 2t, 2t + 1        a[2]: row g,     columns 2t + 8, 2t + 9
//                a[1]: row g + 8, columns 2t, 2t + 1        a[3]: row g + 8, columns 2t + 8, 2t + 9
//   b, 16 x 8    b[0]: rows 2t, 2t + 1 of column g          b[1]: rows 2t + 8, 2t + 9 of column g
//   sum, 16 x 8  sum[0], sum[1]: row g, columns 2t, 2t + 1  sum[2], sum[3]: the same of row g + 8
//
// So two neighbouring sums, 16 x 16, are an `a` once their pairs are packed.
#pragma once

#include <cstring>
#include <type_traits>

#include "core/cuda.h"
#if defined(WSOL_EMULATOR)
#include "emulator_mma.h"
#endif

namespace wsol::cuda {

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

// sum += a b. T is __half or __nv_bfloat16.
template <typename T>
__device__ inline void mma(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(WSOL_EMULATOR)
  emulator::mma_m16n8k16<T>(sum, a, {b0, b1});
#else
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<T, __nv_bfloat16>);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#endif
}

// Loads four 8 x 8 matrices of 16-bit elements from shared memory: lane l names row l % 8 of matrix
// l / 8, 16 bytes on a 16-byte boundary. Of matrix i, to[i] gets row g, columns 2t and 2t + 1; if
// transposed, rows 2t and 2t + 1 of column g.
template <bool kTransposed>
__device__ inline void load_matrices(uint32_t (&to)[4], const void* row) {
#if defined(WSOL_EMULATOR)
  emulator::ldmatrix_x4(to, row, kTransposed);
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

// Copies kBytes, 4, 8 or 16 on a boundary of as many, from global to shared memory, zeros where not
// `present`, and does not wait for them: whoever calls `wait_for_copies` has its own copies then,
// and, after a barrier, those of all who did.
template <int kBytes>
__device__ inline void copy_async(void* to, const void* from, bool present) {
#if defined(WSOL_EMULATOR)
  emulator::cp_async(to, from, kBytes, present ? kBytes : 0);
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int count = present ? kBytes : 0;
  if constexpr (kBytes ==
                16) {  // past the first cache, which no other piece of these bytes would use
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(address), "l"(__cvta_generic_to_global(from)), "r"(count)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :
                 : "r"(address), "l"(__cvta_generic_to_global(from)), "n"(kBytes), "r"(count)
                 : "memory");
  }
#endif
}

__device__ inline void wait_for_copies() {
#if defined(WSOL_EMULATOR)
  emulator::cp_async_wait_all();
#else
  asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

// 2^x in one instruction, within 2 units in the last place; what is below the normal numbers is 0.
// exp and __expf scale x so as to give those as well.
__device__ inline float fast_exp2(float x) {
#if defined(WSOL_EMULATOR)
  return emulator::ex2_approx_ftz(x);
#else
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#endif
}

// Two values in a register, `first` in its low half.
template <typename T>
__device__ inline uint32_t pack(float first, float second) {
  uint32_t bits;
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __float22half2_rn(make_float2(first, second));
    memcpy(&bits, &pair, sizeof(bits));
  } else {
    const __nv_bfloat162 pair = __float22bfloat162_rn(make_float2(first, second));
    memcpy(&bits, &pair, sizeof(bits));
  }
  return bits;
}

#endif  // __CUDACC__ || WSOL_EMULATOR

}  // namespace wsol::cuda
