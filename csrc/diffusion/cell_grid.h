// The grid of cells of spatial_diffusion's CUDA kernels.
#pragma once

#include "core/host_device.h"

namespace wsol::cuda::diffusion {

struct Grid {
  int width, cells;

  WSOL_HOST_DEVICE int height() const { return cells / width; }
  WSOL_HOST_DEVICE bool has_right(int i) const { return (i + 1) % width != 0; }
  WSOL_HOST_DEVICE bool has_down(int i) const { return i + width < cells; }
  WSOL_HOST_DEVICE bool has_left(int i) const { return i % width != 0; }
  WSOL_HOST_DEVICE bool has_up(int i) const { return i >= width; }
  WSOL_HOST_DEVICE double degree(int i) const {
    return has_right(i) + has_down(i) + has_left(i) + has_up(i);
  }
  // Cells of an array with a row before and a row after them.
  int padded() const { return cells + 2 * width; }
};

}  // namespace wsol::cuda::diffusion
