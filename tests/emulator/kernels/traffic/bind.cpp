#include "core/bind.h"

#include "emulator.h"
#include "traffic.h"

PYBIND11_MODULE(WSOL_MODULE, module) {
  emulator::bind(module);
  using wsol::bind;
  namespace cuda = wsol::cuda;

  bind<cuda::copy>(module, "copy");
  bind<cuda::copy_vectors>(module, "copy_vectors");
  bind<cuda::copy_structs>(module, "copy_structs");
  bind<cuda::copy_columns>(module, "copy_columns");
  bind<cuda::transpose>(module, "transpose");
  bind<cuda::transpose_padded>(module, "transpose_padded");
  bind<cuda::transpose_vectors>(module, "transpose_vectors");
  bind<cuda::add_all>(module, "add_all");
  bind<cuda::copy_even>(module, "copy_even");
  bind<cuda::copy_by_halves>(module, "copy_by_halves");
  bind<cuda::count_values>(module, "count_values");
  bind<cuda::load_matrices>(module, "load_matrices");
  bind<cuda::load_matrices_padded>(module, "load_matrices_padded");
}
