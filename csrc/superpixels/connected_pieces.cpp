// Runs of equal labels in a row take the place of pixels. All threads find them, and write
// segments; in between there are few enough that one does. The rounds see only pieces that touch a
// small one. Limited by branches that depend on the labels.
#include "superpixels/connected_pieces.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/parallel_for.h"
#include "superpixels/lane_vectors.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kLeastPixels = 1 << 14;  // of a thread: fewer are done before it is awake
constexpr uint64_t kNoOffer = std::numeric_limits<uint64_t>::max();

// Writes the runs of a row of labels, which has one more before it; returns their number.
template <int kBytes>
inline int64_t runs_of(const int32_t* row, int64_t width, int32_t* begins, int32_t* labels) {
  using V = Lanes<kBytes>;
  int64_t count = 0;
  for (int64_t x = 0; x < width; x += kTileColumns) {
    uint32_t differ = 0;
    for (int64_t i = 0; i < kTileColumns; i += V::kCount) {
      differ |= V::sign_bits(V::load(row + x + i) != V::load(row + x + i - 1)) << i;
    }
    for (; differ != 0; differ &= differ - 1) {
      const int64_t begin = x + std::countr_zero(differ);
      begins[count] = static_cast<int32_t>(begin);
      labels[count++] = row[begin];
    }
  }
  while (count > 0 && begins[count - 1] >= width) --count;  // right of the image
  begins[count] = static_cast<int32_t>(width);
  labels[count++] = -1;
  return count;
}

}  // namespace

void ConnectedPieces::write(const TiledImage& image, int64_t pixels,
                            const std::vector<SegmentSums>& sums, int32_t* segments, int threads) {
  find_runs(image, threads);
  join_runs();
  number_pieces();
  const auto labels = static_cast<int64_t>(sums.size() / image.layers.size());
  bool any_small = false;
  for (Piece& piece : found_) {
    piece.is_small = piece.label >= 0 && 2 * piece.size * labels < pixels;
    any_small |= piece.is_small;
  }
  if (any_small && found_.size() > 1) {
    sum_colours(image, sums, labels);
    find_contacts();
    join_small_pieces(image, pixels, labels);
  }

  int32_t count = 0;
  for (size_t i = 0; i < found_.size(); ++i) {
    // Consecutive numbers in the order of first pixels; what joined another came after it.
    Piece& piece = found_[i];
    if (piece.label < 0) continue;
    piece.label = piece.parent == static_cast<int32_t>(i) ? count++ : found_[piece.parent].label;
  }
  parallel_for(image.height, kLeastPixels / image.width + 1, threads,
               [&](int64_t begin, int64_t end) { write_rows(begin, end, image.width, segments); });
}

void ConnectedPieces::write_rows(int64_t begin, int64_t end, int64_t width,
                                 int32_t* segments) const {
  constexpr int64_t kWide = 8;
  const int32_t* begins = begins_.get();
  for (int64_t y = begin; y < end; ++y) {
    int32_t* row = segments + y * width;
    const bool is_last = y + 1 == end;
    for (int64_t i = rows_[y]; i + 1 < rows_[y + 1]; ++i) {
      const int32_t segment = found_[pieces_.get()[i]].label;
      int64_t x = begins[i];
      const int64_t stop = begins[i + 1];
      // What is written too far, into the next row at most, is written again.
      for (; x < stop && (!is_last || x + kWide <= stop); x += kWide) {
        if (x + kWide > width && width < kWide) break;
        std::fill_n(row + x, kWide, segment);
      }
      for (; x < stop; ++x) row[x] = segment;
    }
  }
}

void ConnectedPieces::find_runs(const TiledImage& image, int threads) {
  // Each part of the rows has room for as many runs as there may be; then they move together.
  const int64_t height = image.height, room = image.tiles_across * kTileColumns + 1;
  const int64_t parts = std::clamp<int64_t>(height * room / kLeastPixels, 1, threads);
  const auto first_row = [&](int64_t part) { return part * height / parts; };
  int32_t* begins = begins_.reserve(height * room);
  int32_t* labels = labels_.reserve(height * room);
  rows_.resize(height + 1);
  std::vector<int64_t> ends(parts);
  parallel_for(parts, 1, threads, [&](int64_t first, int64_t last) {
    std::vector<int32_t> padded(room, -2);  // no label
    int32_t* row = padded.data() + 1;
    for (int64_t part = first; part < last; ++part) {
      int64_t run = first_row(part) * room;
      for (int64_t y = first_row(part); y < first_row(part + 1); ++y) {
        for (int64_t x = 0; x < image.width; x += kTileColumns) {
          std::copy_n(image.labels.get() + image.index(y, x), kTileColumns, row + x);
        }
        rows_[y] = run;
        with_vectors([&]<int kBytes>() {
          run += runs_of<kBytes>(row, image.width, begins + run, labels + run);
        });
      }
      ends[part] = run;
    }
  });
  int64_t total = ends[0];
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t from = first_row(part) * room, runs = ends[part] - from;
    std::copy_n(begins + from, runs, begins + total);
    std::copy_n(labels + from, runs, labels + total);
    for (int64_t y = first_row(part); y < first_row(part + 1); ++y) rows_[y] -= from - total;
    total += runs;
  }
  rows_[height] = total;
}

void ConnectedPieces::join_runs() {
  const int64_t runs = rows_.back();
  const int32_t *begins = begins_.get(), *labels = labels_.get();
  int32_t* parents = pieces_.reserve(runs);
  int32_t* above = above_.reserve(runs);
  const auto root = [&](int32_t run) {
    while (parents[run] != run) run = parents[run] = parents[parents[run]];
    return run;
  };
  for (int64_t i = 0; i < runs; ++i) parents[i] = static_cast<int32_t>(i);
  for (size_t y = 1; y + 1 < rows_.size(); ++y) {
    int64_t over = rows_[y - 1];
    for (int64_t run = rows_[y]; run + 1 < rows_[y + 1]; ++run) {
      while (begins[over + 1] <= begins[run]) ++over;
      above[run] = static_cast<int32_t>(over);
      for (;; ++over) {
        if (labels[over] == labels[run]) {
          const int32_t one = root(static_cast<int32_t>(over)), other = root(parents[run]);
          parents[std::max(one, other)] = std::min(one, other);
        }
        if (begins[over + 1] >= begins[run + 1]) break;
      }
    }
  }
}

// Replaces first runs by pieces' numbers.
void ConnectedPieces::number_pieces() {
  found_.clear();
  for (size_t y = 0; y + 1 < rows_.size(); ++y) {
    for (int64_t run = rows_[y]; run + 1 < rows_[y + 1]; ++run) {
      const int32_t parent = pieces_.get()[run];
      int32_t piece;
      if (parent == run) {
        piece = static_cast<int32_t>(found_.size());
        found_.push_back({});
        found_.back().label = labels_.get()[run];
        found_.back().parent = piece;
      } else {
        piece = pieces_.get()[parent];  // of a run before this one: numbered already
      }
      pieces_.get()[run] = piece;
      found_[piece].size += begins_.get()[run + 1] - begins_.get()[run];
    }
  }
}

// Adds up the pixels of all pieces but the largest of each label, which has what they leave.
void ConnectedPieces::sum_colours(const TiledImage& image, const std::vector<SegmentSums>& sums,
                                  int64_t labels) {
  const size_t layers = image.layers.size();
  std::vector<int32_t> largest(labels, -1);
  for (size_t i = 0; i < found_.size(); ++i) {
    if (found_[i].label < 0) continue;
    int32_t& piece = largest[found_[i].label];
    if (piece < 0 || found_[i].size > found_[piece].size) piece = static_cast<int32_t>(i);
  }
  colours_.assign(found_.size() * layers, {});
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t run = rows_[y]; run + 1 < rows_[y + 1]; ++run) {
      const int32_t piece = pieces_.get()[run], label = found_[piece].label;
      if (label < 0 || piece == largest[label]) continue;
      for (int64_t x = begins_.get()[run]; x < begins_.get()[run + 1]; ++x) {
        const int64_t pixel = image.index(y, x);
        for (size_t layer = 0; layer < layers; ++layer) {
          Colour& colour = colours_[piece * layers + layer];
          const int32_t pair = image.layers[layer].light_and_a.get()[pixel];
          colour.lightness += static_cast<int16_t>(pair);
          colour.a += pair >> 16;
          colour.b += image.layers[layer].b.get()[pixel];
        }
      }
    }
  }
  for (int64_t label = 0; label < labels; ++label) {
    if (largest[label] < 0) continue;
    for (size_t layer = 0; layer < layers; ++layer) {
      Colour& colour = colours_[largest[label] * layers + layer];
      const SegmentSums& sum = sums[layer * labels + label];
      colour.lightness += sum.lightness;
      colour.a += sum.a;
      colour.b += sum.b;
    }
  }
  for (size_t i = 0; i < found_.size(); ++i) {
    if (found_[i].label < 0) continue;
    const auto rest = static_cast<size_t>(largest[found_[i].label]);
    if (i == rest) continue;
    for (size_t layer = 0; layer < layers; ++layer) {
      Colour& left = colours_[rest * layers + layer];
      const Colour& colour = colours_[i * layers + layer];
      left.lightness -= colour.lightness;
      left.a -= colour.a;
      left.b -= colour.b;
    }
  }
}

void ConnectedPieces::find_contacts() {
  contacts_.clear();
  const int32_t *begins = begins_.get(), *pieces = pieces_.get();
  const auto touch = [&](int32_t one, int32_t other) {
    if (one != other && (found_[one].is_small || found_[other].is_small) &&
        found_[one].label >= 0 && found_[other].label >= 0) {
      contacts_.push_back({one, other});
    }
  };
  for (size_t y = 0; y + 1 < rows_.size(); ++y) {
    for (int64_t run = rows_[y]; run + 1 < rows_[y + 1]; ++run) {
      const int64_t over_first = y > 0 ? above_.get()[run] : 0;
      if (run > rows_[y]) {
        // Most borders go on from the row before, where the same two pieces touched.
        const bool goes_on = y > 0 && over_first > rows_[y - 1] &&
                             pieces[over_first - 1] == pieces[run - 1] &&
                             pieces[over_first] == pieces[run];
        if (!goes_on) touch(pieces[run - 1], pieces[run]);
      }
      if (y == 0) continue;
      for (int64_t over = over_first;; ++over) {
        touch(pieces[over], pieces[run]);
        if (begins[over + 1] >= begins[run + 1]) break;
      }
    }
  }
}

void ConnectedPieces::join_small_pieces(const TiledImage& image, int64_t pixels, int64_t labels) {
  const size_t layers = image.layers.size();
  std::vector<int32_t> roots(found_.size());
  for (size_t i = 0; i < found_.size(); ++i) roots[i] = static_cast<int32_t>(i);
  while (!contacts_.empty()) {
    for (const int32_t i : roots) {
      Piece& piece = found_[i];
      const auto mean = [&](int64_t sum) {
        return slic::rounded_mean(sum >> image.colour_bits, piece.size);
      };
      for (size_t layer = 0; layer < layers; ++layer) {
        Colour& colour = colours_[i * layers + layer];
        colour.mean[0] = mean(colour.lightness), colour.mean[1] = mean(colour.a);
        colour.mean[2] = mean(colour.b);
      }
      piece.offer = kNoOffer;
    }
    for (const Contact contact : contacts_) offer_each_other(contact, layers);
    for (const int32_t i : roots) {
      // One that touches no other stays.
      if (!found_[i].is_small || found_[i].offer == kNoOffer) continue;
      const int32_t one = root_of(i), other = root_of(static_cast<int32_t>(found_[i].offer));
      found_[std::max(one, other)].parent = std::min(one, other);
    }
    std::erase_if(roots, [&](int32_t i) {
      Piece& piece = found_[i];
      // The piece it went to came before it, so that one's parent is a root already.
      const int32_t into = piece.parent = found_[piece.parent].parent;
      if (into == i) return false;
      for (size_t layer = 0; layer < layers; ++layer) {
        Colour& sum = colours_[into * layers + layer];
        const Colour& colour = colours_[i * layers + layer];
        sum.lightness += colour.lightness;
        sum.a += colour.a;
        sum.b += colour.b;
      }
      found_[into].size += piece.size;
      return true;
    });
    for (const int32_t i : roots) {
      found_[i].is_small = found_[i].label >= 0 && 2 * found_[i].size * labels < pixels;
    }
    std::erase_if(contacts_, [&](Contact& contact) {
      contact = {found_[contact.one].parent, found_[contact.other].parent};
      return contact.one == contact.other ||
             !(found_[contact.one].is_small || found_[contact.other].is_small);
    });
  }
}

// Offers both of two pieces the other. Those of equal contrast stand in the order of their numbers.
void ConnectedPieces::offer_each_other(Contact contact, size_t layers) {
  Piece &one = found_[contact.one], &other = found_[contact.other];
  uint64_t contrast = 0;
  for (size_t layer = 0; layer < layers; ++layer) {
    const int32_t* mean = colours_[contact.one * layers + layer].mean;
    const int32_t* other_mean = colours_[contact.other * layers + layer].mean;
    for (int i = 0; i < slic::kLayer; ++i) {
      const int32_t difference = mean[i] - other_mean[i];
      contrast += static_cast<uint32_t>(difference * difference);
    }
  }
  one.offer = std::min(one.offer, contrast << 32 | static_cast<uint32_t>(contact.other));
  other.offer = std::min(other.offer, contrast << 32 | static_cast<uint32_t>(contact.one));
}

int32_t ConnectedPieces::root_of(int32_t piece) {
  while (found_[piece].parent != piece) {
    piece = found_[piece].parent = found_[found_[piece].parent].parent;
  }
  return piece;
}

}  // namespace wsol::cpu
