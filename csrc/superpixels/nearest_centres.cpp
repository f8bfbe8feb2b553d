// A tile's candidates are the centres whose windows meet it; a pixel outside of one's window gets a
// place term no distance reaches. Limited by the arithmetic: six instructions a vector and
// candidate.
#include "superpixels/nearest_centres.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "superpixels/lane_vectors.h"

namespace wsol::cpu {
namespace {

using Seen = NearestCentres::Seen;
using Pairs = NearestCentres::Pairs;

// In CIELAB's 1/32, a colour of sRGB has p^2 below 2^25, and two are less than 3 * 2^25 apart.
constexpr int64_t kColourSquare = int64_t{1} << 25;
constexpr int kMostIndexBits = 3;
constexpr int kGroup = 1 << kMostIndexBits;
constexpr int32_t kIndices[kGroup] = {0, 1, 2, 3, 4, 5, 6, 7};  // read into all lanes

struct Tile {
  const Layer* layers;
  int64_t more;   // layers after the first
  int64_t pixel;  // the first, in the image's layers
  int32_t* labels;
  int64_t y, x;                   // of its first pixel
  int64_t rows;                   // of them in the image
  uint64_t columns;               // a bit for each in the image
  int64_t segments;               // how many there are
  const Seen* seen;               // of all centres
  const int32_t *across, *along;  // place terms of the image's first row and column
  const int32_t* numbers;         // of the candidates; 16 can be read from each
  int64_t count;
  const Pairs* colours;  // (segments, more): as a candidate's
};

inline SegmentSums colour_of(const Layer& layer, int64_t pixel) {
  const int32_t pair = layer.light_and_a.get()[pixel];
  return {static_cast<int16_t>(pair), pair >> 16, layer.b.get()[pixel], 0, 0, 0};
}

inline void move(const SegmentSums& what, SegmentSums& from, SegmentSums& to) {
  from.lightness -= what.lightness, from.a -= what.a, from.b -= what.b;
  from.y -= what.y, from.x -= what.x, from.pixels -= what.pixels;
  to.lightness += what.lightness, to.a += what.a, to.b += what.b;
  to.y += what.y, to.x += what.x, to.pixels += what.pixels;
}

// Gives the pixels from `first` on whose bit is set their fresh labels. Not inlined: few pixels
// move, and what it needs of registers would be taken from the loop over candidates.
[[gnu::noinline]] bool move_pixels(const Tile& tile, int64_t first, uint64_t differ,
                                   const int32_t* fresh, SegmentSums* changes) {
  bool changed = false;
  for (; differ != 0; differ &= differ - 1) {
    const int lane = std::countr_zero(differ);
    int32_t& old = tile.labels[first + lane];
    if (old < 0) continue;  // outside of the mask
    changed = true;
    const int64_t pixel = first + lane;
    SegmentSums *from = changes + old, *to = changes + fresh[lane];
    SegmentSums what = colour_of(tile.layers[0], tile.pixel + pixel);
    what.y = tile.y + pixel / kTileColumns;
    what.x = tile.x + pixel % kTileColumns;
    what.pixels = 1;
    move(what, *from, *to);
    for (int64_t layer = 1; layer <= tile.more; ++layer) {
      from += tile.segments, to += tile.segments;
      move(colour_of(tile.layers[layer], tile.pixel + pixel), *from, *to);
    }
    old = fresh[lane];
  }
  return changed;
}

// How distances are compared; the first as many at a time as fit into bits.
enum class By { kGroups, kScores, kFactors };

template <int kBytes, bool kDots, By kBy, bool kMore>
inline bool assign_tile(const Tile& tile, int32_t furthest, SegmentSums* changes) {
  using V = Lanes<kBytes>;
  using Ints = typename V::Aligned;
  // At a time: what they read of a candidate is read once, and the end of its loop, which is hard
  // to foresee, is met once. AVX-512 has registers for all.
  constexpr int64_t kRows = kBytes == 64 ? kTileRows : 2;
  constexpr int kAcross = kTileColumns / V::kCount, kVectors = kRows * kAcross;
  // Whether labels differ is a bit a pixel, in words of up to four rows.
  constexpr int64_t kWordRows = std::min<int64_t>(kRows, 64 / kTileColumns);
  constexpr int kWords = kRows / kWordRows, kWordVectors = kVectors / kWords;
  constexpr int kIndexBits = kBy == By::kGroups ? kMostIndexBits : 0;
  constexpr int64_t kStep = 1 << kIndexBits;
  // Adds what a layer adds to the score of a vector of pixels.
  const auto plus_colour = [](Ints score, Ints light_and_a, Ints b, Ints of_light_and_a,
                              Ints of_b) {
    if constexpr (kBy == By::kFactors) {
      const Ints one = V::pair_differences(light_and_a, of_light_and_a), other = b - of_b;
      return score + V::pair_products(one, one) + other * other;
    } else {
      score = V::template plus_pair_products<kDots>(score, light_and_a, of_light_and_a);
      return V::template plus_pair_products<kDots>(score, b, of_b);
    }
  };
  const int32_t* tile_light_and_a = tile.layers[0].light_and_a.get() + tile.pixel;
  const int16_t* tile_b = tile.layers[0].b.get() + tile.pixel;
  int32_t* labels = tile.labels;
  const Seen* seen = tile.seen;
  const int32_t *numbers = tile.numbers, *all_across = tile.across, *all_along = tile.along;
  const int64_t y = tile.y, x = tile.x;
  const int64_t count = tile.count, rows = tile.rows;
  bool changed = false;
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t first = row * kTileColumns;
    Ints light_and_a[kVectors], b[kVectors], best[kVectors], label[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      light_and_a[v] = V::load(tile_light_and_a + first + v * V::kCount);
      b[v] = V::load(tile_b + first + v * V::kCount);
      label[v] = V::load(labels + first + v * V::kCount);
      best[v] = V::all(furthest);
    }
    for (int64_t group = 0; group < count; group += kStep) {
      const int64_t end = std::min(group + kStep, count);
      Ints least[kVectors];
      for (int v = 0; v < kVectors; ++v) least[v] = V::all(std::numeric_limits<int32_t>::max());
      for (int64_t j = group; j < end; ++j) {
        const Seen& candidate = seen[numbers[j]];
        const int32_t* across = all_across + (candidate.across + y + row);
        const int32_t* along = all_along + (candidate.along + x);
        const Ints of_light_and_a = V::all(candidate.light_and_a), of_b = V::all(candidate.b);
        Ints constant[kAcross];
        for (int i = 0; i < kAcross; ++i) {
          constant[i] = V::load(along + i * V::kCount) + V::all(candidate.base);
          if constexpr (kIndexBits > 0) constant[i] += V::all(kIndices[j - group]);
        }
        for (int v = 0; v < kVectors; ++v) {
          const Ints place = constant[v % kAcross] + V::all(across[v / kAcross]);
          Ints score = kBy == By::kFactors ? Ints{} : place;
          score = plus_colour(score, light_and_a[v], b[v], of_light_and_a, of_b);
          if constexpr (kMore) {
            const int64_t pixel = tile.pixel + first + v * V::kCount;
            const Pairs* colours = tile.colours + numbers[j] * tile.more;
            for (int64_t layer = 0; layer < tile.more; ++layer) {
              const Layer& pixels = tile.layers[layer + 1];
              score = plus_colour(score, V::load(pixels.light_and_a.get() + pixel),
                                  V::load(pixels.b.get() + pixel),
                                  V::all(colours[layer].light_and_a), V::all(colours[layer].b));
            }
          }
          if constexpr (kBy == By::kFactors) score = V::scaled(score, candidate.factor) + place;
          least[v] = score < least[v] ? score : least[v];
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        const Ints distance = least[v] >> kIndexBits;
        const Ints number = kIndexBits == 0
                                ? V::all(numbers[group])
                                : V::look_up(numbers + group, least[v] & (int32_t)(kStep - 1));
        label[v] = distance < best[v] ? number : label[v];
        best[v] = distance < best[v] ? distance : best[v];
      }
    }
    for (int word = 0; word < kWords; ++word) {
      const int64_t start = first + word * kWordRows * kTileColumns;
      const Ints* word_labels = label + word * kWordVectors;
      uint64_t differ = 0;
      for (int v = 0; v < kWordVectors; ++v) {
        const Ints same = word_labels[v] == V::load(labels + start + v * V::kCount);
        differ |= uint64_t{V::sign_bits(~same)} << (v * V::kCount);
      }
      differ &= tile.columns * 0x0001000100010001;  // in each of four rows
      const int64_t left = std::max<int64_t>(rows - start / kTileColumns, 0);
      if (left < kWordRows) differ &= (uint64_t{1} << (left * kTileColumns)) - 1;
      if (differ == 0) continue;
      int32_t fresh[kWordRows * kTileColumns];
      for (int v = 0; v < kWordVectors; ++v) V::store(fresh + v * V::kCount, word_labels[v]);
      changed |= move_pixels(tile, start, differ, fresh, changes);
    }
  }
  return changed;
}

struct Window {
  int64_t begin, end;
};

inline Window window_of(int32_t centre, int64_t reach, int64_t size) {
  const int64_t middle = slic::pixel_of(centre);
  return {std::max<int64_t>(0, middle - reach), std::min(size, middle + reach + 1)};
}

inline int32_t pair_of(int32_t low, int32_t high) { return (low & 0xffff) | high * 65536; }

}  // namespace

void PlaceTerms::fill(int64_t reach, int64_t margin, int64_t weight, int64_t beyond, int bits) {
  before_ = reach + margin;
  length_ = 2 * before_ + 1;
  terms_.resize(slic::kPlaceUnit * length_);
  int32_t* term = terms_.data();
  for (int64_t phase = -slic::kPlaceUnit / 2; phase < slic::kPlaceUnit / 2; ++phase) {
    for (int64_t offset = -before_; offset <= before_; ++offset) {
      const bool is_inside = -reach <= offset && offset <= reach;
      const int64_t value =
          is_inside ? slic::place_term(offset * slic::kPlaceUnit - phase, weight) : beyond;
      *term++ = static_cast<int32_t>(value << bits);
    }
  }
}

NearestCentres::NearestCentres(const slic::Scale& scale, bool adapts)
    : reach_y_(scale.reach_y), reach_x_(scale.reach_x), adapts_(adapts) {
  const auto most = [&](int64_t reach) {
    return int64_t{slic::place_term((2 * reach + 1) * slic::kPlaceUnit / 2, scale.weight)};
  };
  const int64_t place = most(reach_y_) + most(reach_x_);
  // Scores start at -kColourSquare, or 0 in SLICO, stay below 3 * kColourSquare + place in a
  // window, and with one or two terms of 4 * kColourSquare + place do not.
  const int64_t beyond = 4 * kColourSquare + place;
  const bool fits = 12 * kColourSquare + 3 * place <= int64_t{1} << (32 - kMostIndexBits);
  index_bits_ = fits && !adapts ? kMostIndexBits : 0;
  const int64_t lowest = -(int64_t{1} << (31 - index_bits_));
  furthest_ = static_cast<int32_t>(lowest + 4 * kColourSquare + place);
  across_.fill(reach_y_, kTileRows - 1, scale.weight, beyond, index_bits_);
  along_.fill(reach_x_, kTileColumns - 1, scale.weight, beyond, index_bits_);
}

void NearestCentres::prepare(const TiledImage& image, const std::vector<Centre>& centres,
                             const std::vector<int32_t>& contrasts, int64_t least_contrast) {
  const int64_t lowest = -(int64_t{1} << 31);
  const size_t layers = image.layers.size(), labels = centres.size() / layers;
  const int32_t times = adapts_ ? 1 : -2;
  const auto pairs_of = [&](const slic::Colour& colour) {
    return Pairs{pair_of(times * colour.lightness, times * colour.a),
                 adapts_ ? colour.b : pair_of(times * colour.b, 0)};
  };
  seen_.resize(labels);
  more_.resize(labels * (layers - 1));
  for (size_t i = 0; i < labels; ++i) {
    int64_t square = 0;
    for (size_t layer = 0; layer < layers; ++layer) {
      const slic::Colour& colour = centres[layer * labels + i].colour;
      square +=
          int64_t{colour.lightness} * colour.lightness + colour.a * colour.a + colour.b * colour.b;
      if (layer > 0) more_[i * (layers - 1) + layer - 1] = pairs_of(colour);
    }
    const Pairs own = pairs_of(centres[i].colour);
    const int64_t base = adapts_ ? lowest : lowest + ((kColourSquare + square) << index_bits_);
    const Window columns = window_of(centres[i].x, reach_x_, image.width);
    seen_[i] = {own.light_and_a,
                own.b,
                static_cast<int32_t>(base),
                adapts_ ? static_cast<float>(least_contrast) / static_cast<float>(contrasts[i]) : 1,
                static_cast<int32_t>(columns.begin / kTileColumns),
                static_cast<int32_t>((columns.end - 1) / kTileColumns),
                across_.start_of(centres[i].y),
                along_.start_of(centres[i].x)};
  }
  strip_starts_.assign(image.strips + 1, 0);
  const auto for_strips = [&](auto&& visit) {
    for (size_t number = 0; number < labels; ++number) {
      if (centres[number].y == slic::kNowhere) continue;
      const Window rows = window_of(centres[number].y, reach_y_, image.height);
      for (int64_t s = rows.begin / kTileRows; s <= (rows.end - 1) / kTileRows; ++s) {
        visit(s, static_cast<int32_t>(number));
      }
    }
  };
  for_strips([&](int64_t strip, int32_t) { ++strip_starts_[strip]; });
  int64_t total = 0;
  for (int64_t& start : strip_starts_) total += std::exchange(start, total);
  strip_centres_.resize(total);
  for_strips(
      [&](int64_t strip, int32_t number) { strip_centres_[strip_starts_[strip]++] = number; });
  // Each start has become the next strip's.
  for (int64_t strip = image.strips; strip > 0; --strip)
    strip_starts_[strip] = strip_starts_[strip - 1];
  strip_starts_[0] = 0;
}

void NearestCentres::list_candidates(int64_t strip, Candidates& list) const {
  const int64_t first = strip_starts_[strip], last = strip_starts_[strip + 1];
  const int64_t tiles = static_cast<int64_t>(list.starts.size()) - 1;
  // How many more a tile has than the one before it, then where its list starts.
  std::fill(list.starts.begin(), list.starts.end(), 0);
  for (int64_t i = first; i < last; ++i) {
    const Seen& seen = seen_[strip_centres_[i]];
    ++list.starts[seen.first_tile];
    --list.starts[seen.last_tile + 1];
  }
  int64_t count = 0, total = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    count += list.starts[t];
    list.starts[t] = list.ends[t] = total;
    total += count;
  }
  list.starts[tiles] = total;
  int32_t* numbers = list.numbers.reserve(total + 2 * kGroup);  // look_up reads whole vectors
  std::fill_n(numbers + total, 2 * kGroup, 0);
  for (int64_t i = first; i < last; ++i) {
    const int32_t number = strip_centres_[i];
    const Seen& seen = seen_[number];
    for (int32_t t = seen.first_tile; t <= seen.last_tile; ++t) numbers[list.ends[t]++] = number;
  }
}

bool NearestCentres::assign(int64_t begin, int64_t end, TiledImage& image,
                            SegmentSums* changes) const {
  const auto more = static_cast<int64_t>(image.layers.size()) - 1;
  Candidates list;
  list.starts.resize(image.tiles_across + 1);
  list.ends.resize(image.tiles_across);
  // Each way is compiled apart.
  const auto assign_strip = [&]<By kBy, bool kMore>(int64_t strip) {
    bool changed = false;
    with_dot_products([&]<int kBytes, bool kDots>() {
      for (int64_t t = 0; t < image.tiles_across; ++t) {
        const int64_t pixel = (strip * image.tiles_across + t) * kTilePixels;
        const int64_t y = strip * kTileRows, x = t * kTileColumns;
        const Tile tile{image.layers.data(),
                        more,
                        pixel,
                        image.labels.get() + pixel,
                        y,
                        x,
                        std::min(kTileRows, image.height - y),
                        (uint64_t{1} << std::min(kTileColumns, image.width - x)) - 1,
                        static_cast<int64_t>(seen_.size()),
                        seen_.data(),
                        across_.at(0),
                        along_.at(0),
                        list.numbers.get() + list.starts[t],
                        list.starts[t + 1] - list.starts[t],
                        more_.data()};
        changed |= assign_tile<kBytes, kDots, kBy, kMore>(tile, furthest_, changes);
      }
    });
    return changed;
  };
  bool changed = false;
  const auto assign_strips = [&]<By kBy>() {
    for (int64_t strip = begin; strip < end; ++strip) {
      list_candidates(strip, list);
      changed |= more == 0 ? assign_strip.template operator()<kBy, false>(strip)
                           : assign_strip.template operator()<kBy, true>(strip);
    }
  };
  if (adapts_) {
    assign_strips.template operator()<By::kFactors>();
  } else if (index_bits_ == 0) {
    assign_strips.template operator()<By::kScores>();
  } else {
    assign_strips.template operator()<By::kGroups>();
  }
  return changed;
}

void NearestCentres::find_contrasts(int64_t begin, int64_t end, const TiledImage& image,
                                    const std::vector<Centre>& centres, int32_t* contrasts) const {
  const size_t labels = seen_.size();
  for (int64_t y = begin * kTileRows; y < std::min(end * kTileRows, image.height); ++y) {
    for (int64_t x = 0; x < image.width; ++x) {
      const int64_t pixel = image.index(y, x);
      const int32_t label = image.labels.get()[pixel];
      if (label < 0) continue;
      int32_t contrast = 0;
      for (size_t layer = 0; layer < image.layers.size(); ++layer) {
        const slic::Colour& colour = centres[layer * labels + label].colour;
        const int32_t pair = image.layers[layer].light_and_a.get()[pixel];
        const int32_t lightness = static_cast<int16_t>(pair) - colour.lightness;
        const int32_t a = (pair >> 16) - colour.a;
        const int32_t b = image.layers[layer].b.get()[pixel] - colour.b;
        contrast += lightness * lightness + a * a + b * b;
      }
      contrasts[label] = std::max(contrasts[label], contrast);
    }
  }
}

}  // namespace wsol::cpu
