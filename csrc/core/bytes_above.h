// Bytes become bits, 64 at a time. To be used inside of with_vectors.
#pragma once

#include <cstdint>

#include "core/multiversion.h"

namespace wsol::cpu {

// Which of 64 bytes are larger than `cut`, the first in the lowest bit. Not by comparing GCC's
// vectors, which it may take apart before with_vectors inlines this.
template <int kBytes>
uint64_t above(const uint8_t* bytes, uint8_t cut) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  typedef char Bytes16 __attribute__((vector_size(16), aligned(1), may_alias));
  typedef char Bytes32 __attribute__((vector_size(32), aligned(1), may_alias));
  typedef char Bytes64 __attribute__((vector_size(64), aligned(1), may_alias));
  const char limit = static_cast<char>(cut);
  if constexpr (kBytes == 64) {
    constexpr int kGreater = 6;
    const auto limits = __builtin_ia32_pbroadcastb512_gpr_mask(limit, Bytes64{}, ~uint64_t{0});
    return __builtin_ia32_ucmpb512_mask(*reinterpret_cast<const Bytes64*>(bytes), limits, kGreater,
                                        ~uint64_t{0});
  } else if constexpr (kBytes == 32) {
    const auto limits =
        __builtin_ia32_pbroadcastb256(Bytes16{limit, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    uint64_t not_above = 0;
    for (int i = 0; i < 64; i += 32) {
      const auto excess =
          __builtin_ia32_psubusb256(*reinterpret_cast<const Bytes32*>(bytes + i), limits);
      const int bits = __builtin_ia32_pmovmskb256(__builtin_ia32_pcmpeqb256(excess, Bytes32{}));
      not_above |= static_cast<uint64_t>(static_cast<uint32_t>(bits)) << i;
    }
    return ~not_above;
  } else {
    const Bytes16 limits = Bytes16{} + limit;
    uint64_t not_above = 0;
    for (int i = 0; i < 64; i += 16) {
      const auto excess =
          __builtin_ia32_psubusb128(*reinterpret_cast<const Bytes16*>(bytes + i), limits);
      const int bits = __builtin_ia32_pmovmskb128(__builtin_ia32_pcmpeqb128(excess, Bytes16{}));
      not_above |= static_cast<uint64_t>(static_cast<uint32_t>(bits)) << i;
    }
    return ~not_above;
  }
#else
  uint64_t bits = 0;
  for (int i = 0; i < 64; ++i) bits |= static_cast<uint64_t>(bytes[i] > cut) << i;
  return bits;
#endif
}

}  // namespace wsol::cpu
