// WSOL_MULTIVERSION before a function compiles it for AVX-512, AVX2+FMA and the baseline, and picks
// at load time, so that one wheel runs anywhere. `flatten` inlines what the function calls into
// each version. (A macro: attributes cannot be named any other way.)
#pragma once

#if defined(__GNUC__)
// How vectors are passed matters to no one: with_vectors inlines every call.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WSOL_MULTIVERSION \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), flatten))
#else
#define WSOL_MULTIVERSION
#endif

namespace wsol::cpu {

// with_vectors(work) calls `work.operator()<kBytes>()`, compiled for this machine's instructions,
// with the size of its vectors: for code that is written for a number of registers.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
template <typename Work>
__attribute__((target("arch=x86-64-v4"), flatten)) void with_avx512(const Work& work) {
  work.template operator()<64>();
}
template <typename Work>
__attribute__((target("arch=x86-64-v3"), flatten)) void with_avx2(const Work& work) {
  work.template operator()<32>();
}
#endif

template <typename Work>
void with_vectors(const Work& work) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    return with_avx512(work);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return with_avx2(work);
#endif
  work.template operator()<16>();
}

// with_dot_products(work) calls `work.operator()<kBytes, kDots>()`: as with_vectors, and kDots says
// whether one instruction adds the products of pairs to a sum (VNNI, of AVX-512).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
template <typename Work>
__attribute__((target("arch=x86-64-v4,avx512vnni"),
               flatten)) void with_avx512_vnni(const Work& work) {
  work.template operator()<64, true>();
}
#endif

template <typename Work>
void with_dot_products(const Work& work) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw")) {
    return with_avx512_vnni(work);
  }
#endif
  with_vectors([&]<int kBytes>() { work.template operator()<kBytes, false>(); });
}

}  // namespace wsol::cpu
