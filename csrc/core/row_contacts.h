// Where pixels of two rows touch, from the rows' bits: for kernels that find connected components.
#pragma once

#include "core/host_device.h"

namespace wsol {

// Each pair of runs of two neighbouring rows that touch does so from one pixel on, or at one
// corner. All words are of one place in the row; `left` ones hold each pixel's neighbour to the
// left.
template <typename Word>
struct RowContacts {
  Word joins;  // the first pixel of the row that lies below one of the same two runs
  Word falls;  // a pixel that touches only the one up to the left
  Word rises;  // the place right of a pixel that touches only the one up to the right, over there

  WSOL_HOST_DEVICE RowContacts(Word here, Word left, Word above, Word above_left)
      : joins(here & above & ~(left & above_left)),
        falls(here & ~left & ~above & above_left),
        rises(~here & left & above & ~above_left) {}
};

}  // namespace wsol
