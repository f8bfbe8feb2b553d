// The last step of SLIC: 4-connected pieces of equal labels, small ones joined to a neighbour.
#pragma once

#include <cstdint>
#include <vector>

#include "superpixels/slic_image.h"

namespace wsol::cpu {

class ConnectedPieces {
 public:
  // Writes the segments of an image to `segments` (h, w). `sums` (layers, labels) are those of its
  // labels; a piece is small where 2 * size * labels < pixels, which are those inside of the mask.
  void write(const TiledImage& image, int64_t pixels, const std::vector<SegmentSums>& sums,
             int32_t* segments, int threads);
  int64_t bytes() const {
    return begins_.bytes() + labels_.bytes() + above_.bytes() + pieces_.bytes();
  }

 private:
  struct Colour {  // of a piece in one layer
    int64_t lightness, a, b;
    int32_t mean[3];
  };
  struct Piece {
    int32_t parent;  // where it went, or itself
    int32_t label;   // -1 outside of the mask
    uint64_t offer;  // the best neighbour to join: its contrast, and its number in the lower half
    int64_t size;
    bool is_small;
  };
  struct Contact {
    int32_t one, other;  // pieces
  };

  void find_runs(const TiledImage& image, int threads);
  void join_runs();
  void number_pieces();
  void sum_colours(const TiledImage& image, const std::vector<SegmentSums>& sums, int64_t labels);
  void find_contacts();
  void join_small_pieces(const TiledImage& image, int64_t pixels, int64_t labels);
  void offer_each_other(Contact contact, size_t layers);
  void write_rows(int64_t begin, int64_t end, int64_t width, int32_t* segments) const;
  int32_t root_of(int32_t piece);

  // Runs of equal labels in raster order. Each row ends with a sentinel of label -1 that begins at
  // `width`, so that a run ends where the next begins.
  Buffer<int32_t> begins_, labels_, above_;  // above_: the first run over it, in the row before
  Buffer<int32_t> pieces_;         // a run's piece: at first, a run of it before or itself
  std::vector<int64_t> rows_;      // each row's first run, and one more
  std::vector<Piece> found_;       // in the order of their first pixels
  std::vector<Colour> colours_;    // (pieces, layers)
  std::vector<Contact> contacts_;  // of pieces one of which is small
};

}  // namespace wsol::cpu
