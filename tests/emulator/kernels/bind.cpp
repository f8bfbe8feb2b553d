#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "emulator.h"
#include "kernels.h"

PYBIND11_MODULE(WSOL_MODULE, module) {
  emulator::bind(module);

  module.def("global_overrun", mistakes::global_overrun);
  module.def("shared_overrun", mistakes::shared_overrun);
  module.def("unwritten_shared", mistakes::unwritten_shared);
  module.def("missing_barrier", mistakes::missing_barrier);
  module.def("dependent_blocks", mistakes::dependent_blocks);
  module.def("divergent_barrier", mistakes::divergent_barrier);
  module.def("barriers_of_two_branches", mistakes::barriers_of_two_branches);
  module.def("divergent_shuffle", mistakes::divergent_shuffle);
  module.def("shuffle_of_two_masks", mistakes::shuffle_of_two_masks);
  module.def("lane_outside_its_mask", mistakes::lane_outside_its_mask);
  module.def("shuffle_with_missing_lanes", mistakes::shuffle_with_missing_lanes);
  module.def("signed_overflow", mistakes::signed_overflow);
  module.def("misaligned_vector", mistakes::misaligned_vector);
  module.def("launch_too_large", mistakes::launch_too_large);
  module.def("matrix_row_off_its_boundary", mistakes::matrix_row_off_its_boundary);
  module.def("matrix_row_outside_shared", mistakes::matrix_row_outside_shared);
  module.def("copy_read_early", mistakes::copy_read_early);
  module.def("copy_over_what_is_read", mistakes::copy_over_what_is_read);
  module.def("copy_left_behind", mistakes::copy_left_behind);
  module.def("copy_off_its_boundary", mistakes::copy_off_its_boundary);

  module.def("shuffle", values::shuffle);
  module.def("shuffle_up", values::shuffle_up);
  module.def("shuffle_down", values::shuffle_down);
  module.def("shuffle_xor", values::shuffle_xor);
  module.def("shuffle_doubles", values::shuffle_doubles);
  module.def("match_any", values::match_any);
  module.def("votes", values::votes);
  module.def("reductions", values::reductions);
  module.def("block_votes", values::block_votes);
  module.def("atomics", values::atomics);
  module.def("atomic_sum", values::atomic_sum);
  module.def("thread_ranks", values::thread_ranks);
  module.def("half_to_float", values::half_to_float);
  module.def("float_to_half", values::float_to_half);
  module.def("bfloat16_to_float", values::bfloat16_to_float);
  module.def("float_to_bfloat16", values::float_to_bfloat16);
  module.def("mma_half", values::mma_half);
  module.def("mma_bfloat16", values::mma_bfloat16);
  module.def("load_matrices", values::load_matrices);
  module.def("shared_limits", values::shared_limits);
  module.def("bit_functions", values::bit_functions);
}
