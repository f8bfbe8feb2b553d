// CPU: kLanes pixels at once, beside each other in memory. Those of a column are, once a block of
// as many rows is transposed. The second pass looks its pixels up in a table that normalizes them.
// Limited by the multiplications, one a pixel and tap, of integers of 32 bits.
#include "pictures/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int kLanes = kResizeLanes;
constexpr int kFractionBits = 32 - 8 - 2;  // of Pillow's weights

// Which old pixels make each new one, and their weights: Pillow's precompute_coeffs, by the same
// steps of double precision.
struct Taps {
  struct Window {
    int64_t first, count;
  };
  std::vector<Window> windows;
  std::vector<int32_t> weights;
  int64_t stride;

  Taps(int64_t old_size, int64_t new_size) : windows(new_size) {
    const double scale = static_cast<double>(old_size) / static_cast<double>(new_size);
    const double support = std::max(scale, 1.0), step = 1.0 / support;
    stride = 2 * static_cast<int64_t>(std::ceil(support)) + 1;
    weights.resize(new_size * stride);
    std::vector<double> exact(stride);
    for (int64_t i = 0; i < new_size; ++i) {
      const double centre = (static_cast<double>(i) + 0.5) * scale;
      const auto from = static_cast<int64_t>(centre - support + 0.5);
      const auto to = static_cast<int64_t>(centre + support + 0.5);
      const int64_t first = std::max<int64_t>(from, 0), count = std::min(to, old_size) - first;
      double sum = 0.0;
      for (int64_t t = 0; t < count; ++t) {
        const double distance = std::abs((static_cast<double>(t + first) - centre + 0.5) * step);
        exact[t] = distance < 1.0 ? 1.0 - distance : 0.0;
        sum += exact[t];
      }
      for (int64_t t = 0; t < count; ++t) {
        const double weight = sum == 0.0 ? exact[t] : exact[t] / sum;
        weights[i * stride + t] = static_cast<int32_t>(0.5 + weight * (1 << kFractionBits));
      }
      windows[i] = {first, count};
    }
  }
  const int32_t* of(int64_t i) const { return weights.data() + i * stride; }
};

// A square of bytes, with rows and columns exchanged: a byte's place in it has eight bits, and each
// of four perfect shuffles turns them by one. (Not inlined: the baseline has the instructions for
// this loop, and longer vectors would have to be taken apart.)
struct Square {
  static constexpr int kSide = 16, kHalf = kSide * kSide / 2;
  uint8_t bytes[2 * kHalf];

  __attribute__((noinline)) void transpose() {
    Square other;
    shuffle(bytes, other.bytes);
    shuffle(other.bytes, bytes);
    shuffle(bytes, other.bytes);
    shuffle(other.bytes, bytes);
  }
  static void shuffle(const uint8_t* __restrict in, uint8_t* __restrict out) {
    for (int i = 0; i < kHalf; ++i) {
      out[2 * i] = in[i];
      out[2 * i + 1] = in[kHalf + i];
    }
  }
  void read(const uint8_t* in, int64_t stride, int64_t rows, int64_t columns) {
    if (rows >= kSide && columns >= kSide) {
      for (int r = 0; r < kSide; ++r) std::memcpy(bytes + r * kSide, in + r * stride, kSide);
    } else {
      std::memset(bytes, 0, sizeof(bytes));
      for (int64_t r = 0; r < std::min<int64_t>(rows, kSide); ++r) {
        std::memcpy(bytes + r * kSide, in + r * stride, std::min<int64_t>(columns, kSide));
      }
    }
  }
  void write(uint8_t* out, int64_t stride, int64_t rows) const {
    for (int r = 0; r < std::min<int64_t>(rows, kSide); ++r) {
      std::memcpy(out + r * stride, bytes + r * kSide, kSide);
    }
  }
};

// kLanes new pixels of `count` times as many old ones, which are `stride` bytes apart.
inline void blend(const uint8_t* in, int64_t stride, const int32_t* weights, int64_t count,
                  uint8_t* out) {
  int32_t sums[kLanes];
  std::fill_n(sums, kLanes, 1 << (kFractionBits - 1));
  for (int64_t t = 0; t < count; ++t) {
    const uint8_t* const pixels = in + t * stride;
    const int32_t weight = weights[t];
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) sums[i] += weight * pixels[i];
  }
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) {
    const int32_t level = sums[i] >> kFractionBits;
    out[i] = static_cast<uint8_t>(level < 255 ? level : 255);
  }
}

// Of a block of kLanes rows: (w, 3, kLanes) before, and (3, new width, kLanes) after.
struct Block {
  std::vector<uint8_t> before, after;
};

WSOL_MULTIVERSION void resize_block(const uint8_t* in, int64_t width, int64_t rows,
                                    const Taps& taps, Block& block, uint8_t* out, int64_t columns,
                                    int64_t channel_stride) {
  constexpr int kSide = Square::kSide;
  const int64_t bytes = 3 * width, new_width = static_cast<int64_t>(taps.windows.size());
  Square square;
  for (int64_t r = 0; r < rows; r += kSide) {
    for (int64_t i = 0; i < bytes; i += kSide) {
      square.read(in + r * bytes + i, bytes, rows - r, bytes - i);
      square.transpose();
      square.write(block.before.data() + i * kLanes + r, kLanes, kSide);
    }
  }
  for (int64_t x = 0; x < new_width; ++x) {
    const auto [first, count] = taps.windows[x];
    for (int c = 0; c < 3; ++c) {
      blend(block.before.data() + (3 * first + c) * kLanes, 3 * kLanes, taps.of(x), count,
            block.after.data() + (c * columns + x) * kLanes);
    }
  }
  for (int c = 0; c < 3; ++c) {
    for (int64_t r = 0; r < rows; r += kSide) {
      for (int64_t x = 0; x < new_width; x += kSide) {
        square.read(block.after.data() + (c * columns + x) * kLanes + r, kLanes, kSide, kSide);
        square.transpose();
        square.write(out + c * channel_stride + r * columns + x, columns, rows - r);
      }
    }
  }
}

WSOL_MULTIVERSION void resize_column_range(const ResizeColumns& args, const Taps& taps,
                                           int64_t begin, int64_t end) {
  const int64_t old_height = args.pixels.size(1), columns = args.pixels.size(2);
  const int64_t height = args.out.size(1), width = args.out.size(2);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t c = row / height, y = row % height;
    const auto [first, count] = taps.windows[y];
    const uint8_t* const in = args.pixels.as<uint8_t>() + (c * old_height + first) * columns;
    const float* const levels = args.levels.as<float>() + 256 * c;
    float* const out = args.out.as<float>() + row * width;
    for (int64_t x = 0; x < width; x += kLanes) {
      uint8_t pixels[kLanes];
      blend(in + x, columns, taps.of(y), count, pixels);
      const int64_t length = std::min<int64_t>(kLanes, width - x);
      for (int64_t i = 0; i < length; ++i) out[x + i] = levels[pixels[i]];
    }
  }
}

}  // namespace

void resize_rows(const ResizeRows& args, int threads) {
  const int64_t height = args.pixels.size(0), width = args.pixels.size(1);
  const int64_t columns = args.out.size(2);
  const Taps taps(width, args.width);
  parallel_for((height + kLanes - 1) / kLanes, 1, threads, [&](int64_t begin, int64_t end) {
    Block block;
    block.before.resize((3 * width + Square::kSide) * kLanes);
    block.after.resize(3 * columns * kLanes);
    for (int64_t row = begin * kLanes; row < std::min(end * kLanes, height); row += kLanes) {
      resize_block(args.pixels.as<uint8_t>() + 3 * width * row, width,
                   std::min<int64_t>(kLanes, height - row), taps, block,
                   args.out.as<uint8_t>() + row * columns, columns, args.out.stride(0));
    }
  });
}

void resize_columns(const ResizeColumns& args, int threads) {
  const Taps taps(args.pixels.size(1), args.out.size(1));
  parallel_for(3 * args.out.size(1), 1, threads,
               [&](int64_t begin, int64_t end) { resize_column_range(args, taps, begin, end); });
}

}  // namespace wsol::cpu
