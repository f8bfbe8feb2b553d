// Kernels that ask of memory what is known, most of them badly: what a counting build counts of
// them is held to the number. `in` and `out` are float32 or int32, contiguous.
#pragma once

#include "core/tensor_view.h"

namespace wsol {

struct Traffic {
  TensorView in, out;
};

namespace cuda {

void copy(const Traffic& args, Stream stream);               // a float a thread
void copy_vectors(const Traffic& args, Stream stream);       // 16 bytes a thread, by way of shared
void copy_structs(const Traffic& args, Stream stream);       // 16 bytes that are aligned as 4 are
void copy_columns(const Traffic& args, Stream stream);       // of (32, 32): uncoalesced reads
void transpose(const Traffic& args, Stream stream);          // (32, 32): bank conflicts
void transpose_padded(const Traffic& args, Stream stream);   // without
void transpose_vectors(const Traffic& args, Stream stream);  // (32, 32, 4): conflicts of 16 bytes
void add_all(const Traffic& args, Stream stream);            // each thread reads all of `in`
void copy_even(const Traffic& args, Stream stream);          // odd lanes do nothing
void copy_by_halves(const Traffic& args, Stream stream);     // by two branches of one warp
void count_values(const Traffic& args, Stream stream);       // atomics: out[in[i]] += 1
void load_matrices(const Traffic& args, Stream stream);      // ldmatrix of rows 128 bytes apart
void load_matrices_padded(const Traffic& args, Stream stream);  // 144 bytes apart

}  // namespace cuda
}  // namespace wsol
