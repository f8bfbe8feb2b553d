// The step of SLIC's k-means that gives each pixel the nearest centre whose window it lies in.
//
// Distances of one pixel to its candidates are compared without the term they share: with p and c
// as colours, c^2 - 2 p c + place. Eight candidates at a time, their order in the lowest three
// bits, one minimum finds the first of the nearest; where place weighs too much for the bits,
// candidates are compared one by one. So they are in SLICO, by (p - c)^2 times the centre's factor.
#pragma once

#include <cstdint>
#include <vector>

#include "superpixels/slic_image.h"

namespace wsol::cpu {

struct Centre {
  int32_t y, x;  // in 1/16 pixel
  slic::Colour colour;
};

// What place adds to a distance along one axis, for each sixteenth of a pixel that a centre may lie
// off its window's middle, and `margin` pixels beyond the window, where it is more than any
// distance.
class PlaceTerms {
 public:
  void fill(int64_t reach, int64_t margin, int64_t weight, int64_t beyond, int bits);
  // The terms of pixel 0 and those after it, of which there are only those from `margin` before the
  // window to `margin` behind it.
  int64_t start_of(int32_t centre) const {
    const int64_t middle = slic::pixel_of(centre), phase = centre - middle * slic::kPlaceUnit;
    return (phase + slic::kPlaceUnit / 2) * length_ - middle + before_;
  }
  const int32_t* at(int64_t place) const { return terms_.data() + place; }

 private:
  std::vector<int32_t> terms_;
  int64_t length_ = 0, before_ = 0;
};

class NearestCentres {
 public:
  // A centre as tiles see it.
  struct Seen {
    int32_t light_and_a, b;         // the first layer's colour, times -2 but in SLICO
    int32_t base;                   // what does not depend on the pixel
    float factor;                   // of SLICO
    int32_t first_tile, last_tile;  // of those that its window meets in a strip
    int64_t across, along;  // where its place terms are, of the image's first row and column
  };
  struct Pairs {
    int32_t light_and_a, b;  // as theirs
  };

  // `adapts` is SLICO.
  NearestCentres(const slic::Scale& scale, bool adapts);

  // Bits that TiledImage's colours are to be scaled by.
  int colour_bits() const { return index_bits_; }
  // Takes the centres (layers, labels) of a round; in SLICO, with the largest contrast of each.
  void prepare(const TiledImage& image, const std::vector<Centre>& centres,
               const std::vector<int32_t>& contrasts, int64_t least_contrast);
  // Gives the pixels of the strips [begin, end) their labels, and adds what that changes to
  // `changes` (layers, labels). Returns whether it changed any.
  bool assign(int64_t begin, int64_t end, TiledImage& image, SegmentSums* changes) const;
  // Raises contrasts to those of the pixels of the strips [begin, end) to their centres.
  void find_contrasts(int64_t begin, int64_t end, const TiledImage& image,
                      const std::vector<Centre>& centres, int32_t* contrasts) const;

 private:
  // A strip's candidates, tile after tile.
  struct Candidates {
    std::vector<int64_t> starts, ends;  // of the tiles; one more start
    Buffer<int32_t> numbers;            // 16 can be read from each
  };

  void list_candidates(int64_t strip, Candidates& list) const;

  int64_t reach_y_, reach_x_;
  bool adapts_;
  int index_bits_;
  int32_t furthest_;  // what the best candidate has to stay below
  PlaceTerms across_, along_;
  std::vector<Seen> seen_;
  std::vector<Pairs> more_;             // (labels, layers - 1): the colours of the other layers
  std::vector<int64_t> strip_starts_;   // into strip_centres_, one more than strips
  std::vector<int32_t> strip_centres_;  // ascending within a strip
};

}  // namespace wsol::cpu
