// A thread takes an image. One pass reads the mask, a bit a pixel, and unites the runs of
// neighbouring strips; their roots are numbered; a second pass over the bits writes labels and
// measures components. Limited by the labels' way to memory where runs are few, by branches that
// depend on the mask in noise.
#include "components/label_components.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "core/bytes_above.h"
#include "core/element_types.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"
#include "core/row_contacts.h"

namespace wsol::cpu {
namespace {

using Component = ComponentLists::Component;

constexpr int64_t kLanes = 16;  // pixels that get their labels at once
constexpr int64_t kPixelsWorthAThread = 1 << 14;
constexpr int64_t kMostKept = int64_t{1} << 25;  // bytes, of all threads together

struct Image {
  int64_t height, width;
  const uint8_t* mask;
  int64_t mask_stride;
  int32_t* labels;  // contiguous

  int64_t row_words() const { return (width + 63) / 64; }
};

// The bits of pixels up to `bit`.
inline uint64_t up_to(int bit) { return ~uint64_t{0} >> (63 - bit); }

// The bits of the first `count` pixels, of at most kLanes.
inline uint32_t first_bits(int64_t count) {
  return count >= kLanes ? (1u << kLanes) - 1u : (1u << count) - 1u;
}

// `label` at `to` where bits are set, else 0: kLanes of them, but no more than `room`.
inline void write_labels(int32_t* to, uint32_t bits, int32_t label, int64_t room) {
  if (room >= kLanes) {
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) to[i] = label & -static_cast<int32_t>(bits >> i & 1u);
  } else {
    for (int i = 0; i < room; ++i) to[i] = label & -static_cast<int32_t>(bits >> i & 1u);
  }
}

// The values' sum where bits are set.
template <typename T>
inline double masked_sum(const T* values, uint32_t bits) {
  constexpr int kParts = 8;
  if (bits == first_bits(kLanes)) {
    double parts[kParts];
    for (int i = 0; i < kParts; ++i) {
      parts[i] = static_cast<double>(values[i]) + static_cast<double>(values[kParts + i]);
    }
    for (int step = kParts / 2; step > 0; step /= 2) {
      for (int i = 0; i < step; ++i) parts[i] += parts[step + i];
    }
    return parts[0];
  }
  double sum = 0;
  for (; bits != 0; bits &= bits - 1) sum += static_cast<double>(values[std::countr_zero(bits)]);
  return sum;
}

template <>
inline double masked_sum(const Half* values, uint32_t bits) {
  double sum = 0;
  for (; bits != 0; bits &= bits - 1) {
    sum += static_cast<double>(static_cast<float>(values[std::countr_zero(bits)]));
  }
  return sum;
}

struct NoValues {};

template <typename T>
struct Values {
  const T* data = nullptr;
  int64_t stride = 0;
};

class Labelling {
 public:
  // With strips of kRows rows: of two, corners touch.
  template <int kRows, typename T>
  void run(const Image& image, const Values<T>& values, std::vector<Component>& components) {
    with_vectors([&]<int kBytes>() { read_and_unite<kBytes, kRows>(image); });
    components.assign(number_roots(), {INT32_MAX, INT32_MAX, 0, 0, 0, 0.0});
    with_vectors([&]<int kBytes>() { write_and_measure<kRows>(image, values, components.data()); });
  }

  int64_t bytes() const {
    return static_cast<int64_t>(bits_.capacity() * sizeof(uint64_t) +
                                labels_.capacity() * sizeof(int32_t));
  }

 private:
  // Where a strip's runs begin, and how many of the image's begin before each word.
  struct Starts {
    std::vector<uint64_t> words;
    std::vector<int32_t> before;

    int32_t run_at(int64_t word, int bit) const {
      return before[word] + std::popcount(words[word] & up_to(bit)) - 1;
    }
  };

  template <int kBytes, int kRows>
  void read_and_unite(const Image& image) {
    const int64_t words = image.row_words(), strips = (image.height + kRows - 1) / kRows;
    // Behind the last row one word more, for who reads bits across words.
    bits_.resize(strips * kRows * words + 1);
    for (Starts& starts : starts_) starts.words.resize(words), starts.before.resize(words);
    runs_ = 0;
    for (int64_t strip = 0; strip < strips; ++strip) {
      uint64_t* rows = bits_.data() + strip * kRows * words;
      for (int64_t row = 0; row < kRows; ++row) {
        const int64_t y = strip * kRows + row;
        if (y < image.height) {
          read_row<kBytes>(image.mask + y * image.mask_stride, image.width, rows + row * words);
        } else {
          std::fill_n(rows + row * words, words, 0);
        }
      }
      find_starts<kRows>(rows, words, starts_[strip % 2]);
      if (strip > 0) unite_strips<kRows>(rows, words, starts_[strip % 2], starts_[1 - strip % 2]);
    }
    bits_.back() = 0;
  }

  template <int kBytes>
  static void read_row(const uint8_t* mask, int64_t width, uint64_t* bits) {
    int64_t x = 0;
    for (; x + 64 <= width; x += 64) *bits++ = above<kBytes>(mask + x, 0);
    if (x == width) return;
    uint8_t rest[64] = {};
    std::memcpy(rest, mask + x, width - x);
    *bits = above<kBytes>(rest, 0);
  }

  template <int kRows>
  void find_starts(const uint64_t* rows, int64_t words, Starts& starts) {
    const int32_t first = runs_;
    uint64_t last = 0;  // the pixel before the word
    for (int64_t word = 0; word < words; ++word) {
      uint64_t bits = rows[word];
      if constexpr (kRows == 2) bits |= rows[words + word];
      const uint64_t begin = bits & ~(bits << 1 | last);
      last = bits >> 63;
      starts.words[word] = begin;
      starts.before[word] = runs_;
      runs_ += std::popcount(begin);
    }
    if (static_cast<size_t>(runs_) > labels_.size()) labels_.resize(2 * runs_ + 1024);
    for (int32_t run = first; run < runs_; ++run) labels_[run] = run;
  }

  // Joins the runs of a strip with those of the strip above.
  template <int kRows>
  void unite_strips(const uint64_t* rows, int64_t words, const Starts& starts,
                    const Starts& upper_starts) {
    const uint64_t* upper = rows - words;
    uint64_t last = 0, upper_last = 0;
    for (int64_t word = 0; word < words; ++word) {
      const uint64_t bits = rows[word], upper_bits = upper[word];
      const RowContacts<uint64_t> contacts(bits, bits << 1 | last, upper_bits,
                                           upper_bits << 1 | upper_last);
      last = bits >> 63, upper_last = upper_bits >> 63;
      uint64_t touches = contacts.joins;
      // At a corner, too, the runs that began last up to here are the two that touch.
      if constexpr (kRows == 2) touches |= contacts.falls | contacts.rises;
      for (; touches != 0; touches &= touches - 1) {
        const int bit = std::countr_zero(touches);
        unite(starts.run_at(word, bit), upper_starts.run_at(word, bit));
      }
    }
  }

  int32_t root_of(int32_t run) {
    int32_t* parents = labels_.data();
    while (parents[run] != run) run = parents[run] = parents[parents[run]];
    return run;
  }
  void unite(int32_t one, int32_t other) {
    one = root_of(one), other = root_of(other);
    labels_[std::max(one, other)] = std::min(one, other);
  }

  // Replaces each run's parent, which is numbered already, by its component's label.
  int32_t number_roots() {
    int32_t count = 0;
    int32_t* labels = labels_.data();
    for (int32_t run = 0; run < runs_; ++run) {
      labels[run] = labels[run] == run ? ++count : labels[labels[run]];
    }
    return count;
  }

  template <int kRows, typename T>
  void write_and_measure(const Image& image, const Values<T>& values, Component* components) {
    const int64_t words = image.row_words(), width = image.width;
    const int32_t* label = labels_.data();
    for (int64_t y = 0; y < image.height; y += kRows) {
      const uint64_t* rows = bits_.data() + y * words;
      Strip<kRows, T> strip{image, values, rows, y};
      uint64_t last = 0;
      int64_t begin = 0;
      for (int64_t word = 0; word < words; ++word) {
        uint64_t bits = rows[word];
        if constexpr (kRows == 2) bits |= rows[words + word];
        bool inside = last != 0;
        for (uint64_t changes = bits ^ (bits << 1 | last); changes != 0; changes &= changes - 1) {
          const int64_t x = word * 64 + std::countr_zero(changes);
          if (inside) {
            strip.write_run(begin, x, *label, components[*label - 1]);
            ++label;
          }
          inside = !inside;
          begin = x;
        }
        last = bits >> 63;
      }
      if (last != 0) {
        strip.write_run(begin, width, *label, components[*label - 1]);
        ++label;
      }
      strip.write_background(width);
    }
  }

  template <int kRows, typename T>
  struct Strip {
    const Image& image;
    const Values<T>& values;
    const uint64_t* bits;
    int64_t y;
    int64_t written = 0;  // the first column without a label
    int rows = static_cast<int>(std::min<int64_t>(kRows, image.height - y));

    void write_background(int64_t end) {
      for (; written < end; written += kLanes) {
        for (int row = 0; row < rows; ++row) {
          int32_t* to = image.labels + (y + row) * image.width + written;
          write_labels(to, 0, 0, image.width - written);
        }
      }
    }

    // What is written too far is background, or written again.
    void write_run(int64_t begin, int64_t end, int32_t label, Component& component) {
      write_background(begin);
      int32_t pixels[kRows] = {};
      for (int64_t x = begin; x < end; x += kLanes) {
        for (int row = 0; row < rows; ++row) {
          const uint32_t set = bits_at(row, x) & first_bits(end - x);
          pixels[row] += std::popcount(set);
          write_labels(image.labels + (y + row) * image.width + x, set, label, image.width - x);
          if constexpr (!std::is_same_v<T, NoValues>) {
            component.sum += masked_sum(values.data + (y + row) * values.stride + x, set);
          }
        }
        written = x + kLanes;
      }
      const auto x0 = static_cast<int32_t>(begin), x1 = static_cast<int32_t>(end);
      component.x0 = std::min(component.x0, x0), component.x1 = std::max(component.x1, x1);
      for (int row = 0; row < kRows; ++row) {
        if (pixels[row] == 0) continue;
        const auto at = static_cast<int32_t>(y + row);
        component.y0 = std::min(component.y0, at);
        component.y1 = std::max(component.y1, at + 1);
        component.pixels += pixels[row];
      }
    }

    // kLanes bits of a row, from any column on.
    uint32_t bits_at(int row, int64_t x) const {
      const uint64_t* word = bits + row * image.row_words() + x / 64;
      const int shift = static_cast<int>(x % 64);
      return static_cast<uint32_t>(word[0] >> shift | (word[1] << 1) << (63 - shift)) &
             first_bits(kLanes);
    }
  };

  std::vector<uint64_t> bits_;
  std::array<Starts, 2> starts_;  // of even and odd strips
  std::vector<int32_t> labels_;   // by run: first its parent, then its label
  int32_t runs_ = 0;
};

template <typename Run>
void with_values(const TensorView& values, Run&& run) {
  if (values.data == nullptr) return run(ElementTag<NoValues>{});
  with_floating_type("label_components", values.dtype, run);
}

}  // namespace

std::shared_ptr<ComponentLists> label_components(const LabelComponents& args, int threads) {
  const int64_t count = args.masks.size(0), height = args.masks.size(1), width = args.masks.size(2);
  auto found = std::make_shared<ComponentLists>();
  found->images.resize(count);
  const int64_t grain = std::max<int64_t>(1, kPixelsWorthAThread / (height * width));
  with_values(args.values, [&]<typename T>(ElementTag<T>) {
    parallel_for(count, grain, threads, [&](int64_t begin, int64_t end) {
      thread_local Labelling labelling;
      for (int64_t i = begin; i < end; ++i) {
        const Image image{height, width, args.masks.as<uint8_t>() + i * args.masks.stride(0),
                          args.masks.stride(1), args.labels.as<int32_t>() + i * height * width};
        Values<T> values;
        if constexpr (!std::is_same_v<T, NoValues>) {
          values = {args.values.as<T>() + i * args.values.stride(0), args.values.stride(1)};
        }
        std::vector<Component>& components = found->images[i];
        if (args.corners_touch) {
          labelling.run<2>(image, values, components);
        } else {
          labelling.run<1>(image, values, components);
        }
        args.counts.as<int64_t>()[i] = static_cast<int64_t>(components.size());
      }
      if (labelling.bytes() > kMostKept / threads) labelling = {};
    });
  });
  return found;
}

void measure_components(const MeasureComponents& args, int) {
  auto* areas = args.areas.as<int32_t>();
  auto* boxes = args.boxes.as<int32_t>();
  for (const std::vector<Component>& components : args.found->images) {
    for (const Component& c : components) {
      *areas++ = c.pixels;
      for (const int32_t end : {c.x0, c.y0, c.x1, c.y1}) *boxes++ = end;
    }
  }
  if (args.sums.data == nullptr) return;
  with_float_or_double("label_components", args.sums.dtype, [&]<typename T>(ElementTag<T>) {
    T* sums = args.sums.as<T>();
    for (const std::vector<Component>& components : args.found->images) {
      for (const Component& c : components) *sums++ = static_cast<T>(c.sum);
    }
  });
}

}  // namespace wsol::cpu
