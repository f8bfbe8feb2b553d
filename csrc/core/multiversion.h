// WSOL_MULTIVERSION before a function compiles it for AVX-512, AVX2+FMA and the baseline, and picks
// at load time, so that one wheel runs anywhere. `flatten` inlines what the function calls into
// each version. (A macro: attributes cannot be named any other way.)
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WSOL_MULTIVERSION \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), flatten))
#else
#define WSOL_MULTIVERSION
#endif
