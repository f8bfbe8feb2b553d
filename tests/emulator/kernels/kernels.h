// Kernels that test the emulator. Their memory is in std::vectors, so that no torch is needed to
// run them.
#pragma once

#include <cstdint>
#include <vector>

namespace mistakes {  // each with its mistake, or, where `correct`, without

std::vector<float> global_overrun(bool correct);
std::vector<float> shared_overrun(bool correct);
std::vector<float> unwritten_shared(bool correct);
std::vector<float> missing_barrier(bool correct);
std::vector<float> dependent_blocks(bool correct);
std::vector<float> divergent_barrier(bool correct);
std::vector<float> barriers_of_two_branches(bool correct);
std::vector<float> divergent_shuffle(bool correct);
std::vector<float> shuffle_of_two_masks(bool correct);
std::vector<float> lane_outside_its_mask(bool correct);
std::vector<float> shuffle_with_missing_lanes(bool correct);
std::vector<int> signed_overflow(bool correct);
std::vector<float> misaligned_vector(bool correct);
std::vector<float> launch_too_large(bool correct);
std::vector<float> matrix_row_off_its_boundary(bool correct);
std::vector<float> matrix_row_outside_shared(bool correct);
std::vector<float> copy_read_early(bool correct);
std::vector<float> copy_over_what_is_read(bool correct);
std::vector<float> copy_left_behind(bool correct);
std::vector<float> copy_off_its_boundary(bool correct);

}  // namespace mistakes

namespace values {

using Ints = std::vector<int>;

// One warp; each lane brings its entry of `values`.
Ints shuffle(const Ints& values, int source, int width);
Ints shuffle_up(const Ints& values, unsigned delta, int width);
Ints shuffle_down(const Ints& values, unsigned delta, int width);
Ints shuffle_xor(const Ints& values, int lane_mask, int width);
std::vector<double> shuffle_doubles(const std::vector<double>& values);
Ints match_any(const Ints& values);
std::vector<unsigned> votes(const Ints& predicates, unsigned mask);  // ballot, any, all
Ints reductions(const Ints& values, unsigned mask);                  // add, min, max

// One block of as many threads as predicates: __syncthreads_count, _and, _or.
Ints block_votes(const Ints& predicates);

// Many blocks on one cell each: add, sub, min, max, and, or, xor, exch (of equals), cas.
Ints atomics(const Ints& values);
double atomic_sum(const std::vector<double>& values);

// The rank of each thread, by its three-dimensional index.
Ints thread_ranks(unsigned x, unsigned y, unsigned z);

// One warp; each lane brings its registers of a fragment: a (32 x 4), b (32 x 2), sum (32 x 4).
std::vector<float> mma_half(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                            const std::vector<float>& sum);
std::vector<float> mma_bfloat16(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                                const std::vector<float>& sum);
// One warp; what each lane gets (32 x 4) of 32 rows of 8 elements.
std::vector<uint32_t> load_matrices(const std::vector<uint16_t>& rows, bool transposed);

std::vector<float> half_to_float(const std::vector<uint16_t>& bits);
std::vector<uint16_t> float_to_half(const std::vector<float>& values);
std::vector<float> bfloat16_to_float(const std::vector<uint16_t>& bits);
std::vector<uint16_t> float_to_bfloat16(const std::vector<float>& values);

// Launches a kernel with each of these sizes of shared memory; the limits that were set for it.
Ints shared_limits(const Ints& sizes);

Ints bit_functions(unsigned word);  // popc, clz, ffs, brev

}  // namespace values
