// The second largest eigenvalue of a symmetric matrix M in [-1, 1] whose largest is known with its
// eigenvector, and whether the second's eigenvector is determined. By Lanczos with full
// reorthogonalization, since a handful of products is enough.
//
// Lanczos from one vector finds one eigenvector of each eigenvalue, so that an eigenvalue that is
// there twice looks like any other. Hence a second, shorter run in the complement of what was
// found, from another vector: its largest eigenvalue is M's third. Where second and third are
// close, the first run has mixed their eigenvectors; then those of M in the plane of both are taken
// (Rayleigh and Ritz), which takes them apart as far as their residuals allow.
//
// CPU and CUDA share this text. A Machine has M and does what is linear in the number of rows:
//
//   count()                 rows of M
//   noise(seed)             work = numbers that are alike on every machine
//   multiply(k)             work = M row k
//   dot(k)                  work . row k
//   project_out(rows)       work loses its parts along the first rows; gives its length then
//   keep(k, factor)         row k = factor work
//   combine(first, count)   work = the last Ritz vector's sum of rows from `first`
//   rotate(k, x, y)         row k = x row k + y row k + 1
//   distance(k, factor)     |work - factor row k|
//   extend(step, a, b)      T's entries: a on the diagonal, b beside it and below
//   ritz_value(size, rank)  the rank-th largest eigenvalue of T's first rows and columns, or the
//                           lowest there could be, kLowestRitz, where there are not so many
//   ritz_vector(size, x)    its eigenvector, kept for combine; gives the last entry
//
// On CUDA a block runs it, each thread all of the text: what methods give is the same for all.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace wsol {

constexpr int kMostSteps = 256;  // of a run; so many rows, and those of known vectors
constexpr int kLanczosRows = kMostSteps + 2;
constexpr double kRounding = 1e-14;     // of products with M
constexpr double kAccuracy = 1e-8;      // of the eigenvector, where the gap is what it seems
constexpr double kLargestAngle = 1e-3;  // to an eigenvector that counts as determined

// Where T's eigenvalues lie: M's, and something for rounding.
constexpr double kLowestRitz = -1.0625, kHighestRitz = 1.0625;

struct Ritz {
  double value, residual;  // T's largest eigenvalue, and |M u - value u| for its Ritz vector u
};

struct SecondEigenvector {
  double value, residual;  // of row 1
  bool is_simple;          // the third eigenvalue is not the same, but for rounding
  bool is_determined;      // and known to be so far that the vector is near the true one
};

// Whether an entry counts as one of largest magnitude, the first of which is to be positive: those
// of two alike halves differ by rounding alone.
WSOL_HOST_DEVICE inline bool is_as_large(double value, double largest) {
  return fabs(value) >= (1 - 1e-6) * largest;
}

// Numbers in [-0.5, 0.5) without a pattern (the finalizer of MurmurHash3).
WSOL_HOST_DEVICE inline double noise(uint32_t seed, uint32_t index) {
  uint32_t bits = (index + 1) * 0x9e3779b9u + seed * 0x7f4a7c15u;
  bits = (bits ^ bits >> 16) * 0x85ebca6bu;
  bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
  return (bits ^ bits >> 16) * 0x1p-32 - 0.5;
}

// Whether the second's eigenvector is as accurate as it has to be, if that is the third eigenvalue.
WSOL_HOST_DEVICE inline bool is_apart(const Ritz& second, double third) {
  return second.residual <= 10 * kAccuracy * (second.value - third);
}

// Whether a run may end after `step`: that for the second eigenvalue, or, with the second known,
// for the third, of which little has to be known unless it is near. But a run from noise may look
// converged long before it is, to a smaller eigenvalue: hence not too little.
template <typename Machine>
WSOL_ONE_SIDE bool is_enough(Machine& machine, int step, const Ritz& found, int known,
                             const Ritz& second) {
  if (found.residual <= kRounding) return true;
  if (known == 1) {
    return found.residual <= kAccuracy * (found.value - kLowestRitz) &&
           found.residual <= kAccuracy * (found.value - machine.ritz_value(step, 2));
  }
  return is_apart(second, found.value) && found.residual <= 1e-3 * (second.value - found.value);
}

// The largest eigenvalue of M in the complement of the first `known` rows. Its eigenvector, of unit
// length, becomes row `known`.
template <typename Machine>
WSOL_ONE_SIDE Ritz largest_in_complement(Machine& machine, int known, const Ritz& second) {
  const int dimensions = machine.count() - known;
  const int most = dimensions < kMostSteps ? dimensions : kMostSteps;
  machine.noise(known);
  machine.keep(known, 1 / machine.project_out(known));
  for (int step = 1;; ++step) {
    const int newest = known + step - 1;
    machine.multiply(newest);
    const double along = machine.dot(newest), left = machine.project_out(newest + 1);
    machine.extend(step - 1, along, left);
    const bool is_last = step == most || left <= kRounding;
    if (is_last || step % (1 + step / 16) == 0) {  // T's share of the work stays small
      Ritz found{machine.ritz_value(step, 1), 0};
      found.residual = left * fabs(machine.ritz_vector(step, found.value));
      if (is_last || is_enough(machine, step, found, known, second)) {
        machine.combine(known, step);
        machine.keep(known, 1 / machine.project_out(known));
        return found;
      }
    }
    machine.keep(newest + 1, 1 / left);
  }
}

// Row 0 is the known eigenvector; leaves the second in row 1. At least 2 rows.
template <typename Machine>
WSOL_ONE_SIDE SecondEigenvector second_eigenvector(Machine& machine) {
  Ritz second{}, rest{-INFINITY, 0};
  const int runs = machine.count() > 2 ? 2 : 1;
  for (int known = 1; known <= runs; ++known) {
    const Ritz found = largest_in_complement(machine, known, second);
    (known == 1 ? second : rest) = found;
  }
  double third = rest.value;
  if (!is_apart(second, third)) {
    machine.multiply(1);
    const double a = machine.dot(1), b = machine.dot(2);
    machine.multiply(2);
    const double c = machine.dot(2);
    // M between rows 1 and 2 is (a, b; b, c): its larger eigenvalue's eigenvector is (x, y).
    const double distance = sqrt((a - c) * (a - c) + 4 * b * b);
    const double x = a >= c ? a - c + distance : 2 * b, y = a >= c ? 2 * b : c - a + distance;
    const double length = sqrt(x * x + y * y);
    if (length > 0) machine.rotate(1, x / length, y / length);
    third = (a + c - distance) / 2;
  }
  machine.multiply(1);
  const double value = machine.dot(1), residual = machine.distance(1, value);
  const double gap = value - third, angle_times_gap = fmax(residual, kRounding);
  return {value, residual, kRounding <= kLargestAngle * gap,
          angle_times_gap <= kLargestAngle * (gap - rest.residual)};
}

}  // namespace wsol
