// Eigenpairs of a symmetric tridiagonal matrix, one at a time, in its size's time each: what
// Lanczos's small matrix is asked for. CPU and CUDA share them.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace wsol {

struct Tridiagonal {
  const double* diagonal;
  const double* beside;  // size - 1 numbers, those above and below the diagonal
  int size;
};

// A pivot that is 0 by accident; so small a change moves an eigenvalue by as little.
WSOL_HOST_DEVICE inline double nonzero(double pivot) { return pivot == 0 ? 1e-20 : pivot; }

// How many eigenvalues are above x: as many as pivots of T - x I are positive (Sylvester).
WSOL_HOST_DEVICE inline int eigenvalues_above(const Tridiagonal& t, double x) {
  double pivot = nonzero(t.diagonal[0] - x);
  int count = pivot > 0;
  for (int i = 1; i < t.size; ++i) {
    pivot = nonzero(t.diagonal[i] - x - t.beside[i - 1] * t.beside[i - 1] / pivot);
    count += pivot > 0;
  }
  return count;
}

// The eigenvector of unit length of an eigenvalue, known to rounding: T - x I is factored from
// above and from below, and where both factorizations meet with the smallest pivot the eigenvector
// is largest, and found from there outwards (Parlett and Dhillon, Linear Algebra Appl. 267, 1997).
// `above` and `below` are memory for `size` numbers.
WSOL_HOST_DEVICE inline void eigenvector(const Tridiagonal& t, double x, double* above,
                                         double* below, double* vector) {
  const int last = t.size - 1;
  above[0] = nonzero(t.diagonal[0] - x);
  for (int i = 1; i <= last; ++i) {
    above[i] = nonzero(t.diagonal[i] - x - t.beside[i - 1] * t.beside[i - 1] / above[i - 1]);
  }
  below[last] = nonzero(t.diagonal[last] - x);
  for (int i = last - 1; i >= 0; --i) {
    below[i] = nonzero(t.diagonal[i] - x - t.beside[i] * t.beside[i] / below[i + 1]);
  }
  int meeting = 0;
  double least = INFINITY;
  for (int i = 0; i <= last; ++i) {
    const double pivot = fabs(above[i] + below[i] - (t.diagonal[i] - x));
    if (pivot < least) {
      least = pivot;
      meeting = i;
    }
  }
  vector[meeting] = 1;
  double square = 1;
  for (int i = meeting - 1; i >= 0; --i) {
    vector[i] = -t.beside[i] * vector[i + 1] / above[i];
    square += vector[i] * vector[i];
  }
  for (int i = meeting + 1; i <= last; ++i) {
    vector[i] = -t.beside[i - 1] * vector[i - 1] / below[i];
    square += vector[i] * vector[i];
  }
  const double factor = 1 / sqrt(square);
  for (int i = 0; i <= last; ++i) vector[i] *= factor;
}

}  // namespace wsol
