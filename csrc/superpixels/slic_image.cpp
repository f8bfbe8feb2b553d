// Colours go row by row through arrays of one row: lookups one by one, arithmetic in vectors.
// Limited by the lookups, six a pixel of sRGB.
#include "superpixels/slic_image.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/element_types.h"
#include "core/multiversion.h"

namespace wsol::cpu {
namespace {

// What a row passes through, `width` elements each.
struct RowBuffers {
  std::vector<int32_t> levels;
  std::vector<int16_t> light[3];  // linear red, green, blue; then roots of X, Y, Z
  std::vector<int16_t> colours[3];

  explicit RowBuffers(int64_t width) : levels(width) {
    for (auto& channel : light) channel.resize(width);
    for (auto& channel : colours) channel.resize(width);
  }
};

template <typename T>
WSOL_MULTIVERSION void find_levels(const T* values, int64_t width, int32_t* levels) {
  using A = Accumulator<T>;
  for (int64_t x = 0; x < width; ++x) {
    const A value = static_cast<A>(values[x]);
    const A from_0 = value > A{0} ? value : A{0};  // of a NaN too
    levels[x] =
        static_cast<int32_t>(std::nearbyint((from_0 < A{1} ? from_0 : A{1}) * slic::kLevels));
  }
}

// found[x] = table[index[x]], unrolled: what a loop itself takes would be a third.
template <typename Index>
void look_up(const int16_t* table, const Index* index, int64_t width, int16_t* found) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 8
#endif
  for (int64_t x = 0; x < width; ++x) found[x] = table[index[x]];
}

void find_light(const uint8_t* values, int64_t width, const int16_t* linear_of_byte, int32_t*,
                int16_t* light) {
  look_up(linear_of_byte, values, width, light);
}

template <typename T>
void find_light(const T* values, int64_t width, const int16_t* linear, int32_t* levels,
                int16_t* light) {
  find_levels(values, width, levels);
  look_up(linear, levels, width, light);
}

WSOL_MULTIVERSION void find_tristimulus(int64_t width, int16_t* __restrict red,
                                        int16_t* __restrict green, int16_t* __restrict blue) {
  for (int64_t i = 0; i < width; ++i) {
    const slic::Tristimulus value = slic::tristimulus_of(red[i], green[i], blue[i]);
    red[i] = static_cast<int16_t>(value.x);
    green[i] = static_cast<int16_t>(value.y);
    blue[i] = static_cast<int16_t>(value.z);
  }
}

WSOL_MULTIVERSION void find_colours(int64_t width, int colour_bits, const int16_t* x,
                                    const int16_t* y, const int16_t* z,
                                    int16_t* __restrict lightness, int16_t* __restrict a,
                                    int16_t* __restrict b) {
  for (int64_t i = 0; i < width; ++i) {
    const slic::Colour colour = slic::colour_of(x[i], y[i], z[i]);
    lightness[i] = static_cast<int16_t>(colour.lightness << colour_bits);
    a[i] = static_cast<int16_t>(colour.a << colour_bits);
    b[i] = static_cast<int16_t>(colour.b << colour_bits);
  }
}

WSOL_MULTIVERSION int64_t sum_of(const int16_t* values, int64_t count) {
  int64_t total = 0;
  while (count > 0) {  // parts whose sum fits int32
    const int64_t part = std::min<int64_t>(count, 1 << 16);
    int32_t sum = 0;
    for (int64_t i = 0; i < part; ++i) sum += values[i];
    total += sum;
    values += part;
    count -= part;
  }
  return total;
}

WSOL_MULTIVERSION void store_row(const RowBuffers& row, int64_t y, const TiledImage& image,
                                 const Layer& layer) {
  const int16_t* lightness = row.colours[0].data();
  const int16_t* a = row.colours[1].data();
  const int16_t* b = row.colours[2].data();
  for (int64_t x = 0; x < image.width; x += kTileColumns) {
    int32_t* pairs = layer.light_and_a.get() + image.index(y, x);
    int16_t* b_of_tile = layer.b.get() + image.index(y, x);
    const auto store = [&](int64_t i) {
      pairs[i] = (lightness[x + i] & 0xffff) | a[x + i] * 65536;
      b_of_tile[i] = b[x + i];
    };
    if (x + kTileColumns <= image.width) {
      for (int64_t i = 0; i < kTileColumns; ++i) store(i);
    } else {
      for (int64_t i = 0; x + i < image.width; ++i) store(i);
      for (int64_t i = image.width - x; i < kTileColumns; ++i) pairs[i] = b_of_tile[i] = 0;
    }
  }
}

// Adds the pixels [begin, end) of row y of a layer to a segment's sums.
void add_run(const RowBuffers& row, int64_t y, int64_t begin, int64_t end, SegmentSums& sum) {
  const int64_t pixels = end - begin;
  sum.lightness += sum_of(row.colours[0].data() + begin, pixels);
  sum.a += sum_of(row.colours[1].data() + begin, pixels);
  sum.b += sum_of(row.colours[2].data() + begin, pixels);
  sum.y += y * pixels;
  sum.x += (begin + end - 1) * pixels / 2;
  sum.pixels += pixels;
}

// Calls visit(label, begin, end) for the runs of row y that start with the same label.
template <typename Visit>
void for_first_runs(const Slic& args, const int32_t* start, int64_t y, const Visit& visit) {
  const int64_t height = args.labels.size(1), width = args.labels.size(2);
  if (start == nullptr) {
    const int64_t cell_row = y * args.rows / height;
    for (int64_t column = 0; column < args.columns; ++column) {
      // The first x with x * columns / width >= column.
      const int64_t begin = (column * width + args.columns - 1) / args.columns;
      const int64_t end = ((column + 1) * width + args.columns - 1) / args.columns;
      visit(static_cast<int32_t>(cell_row * args.columns + column), begin, end);
    }
    return;
  }
  const int32_t* labels = start + y * width;
  for (int64_t begin = 0, end; begin < width; begin = end) {
    for (end = begin + 1; end < width && labels[end] == labels[begin];) ++end;
    visit(labels[begin], begin, end);
  }
}

// Writes the labels that row y starts with.
void label_row(const Slic& args, const int32_t* start, int64_t y, TiledImage& image) {
  for_first_runs(args, start, y, [&](int32_t label, int64_t begin, int64_t end) {
    for (int64_t x = begin; x < end;) {
      const int64_t stop = std::min(end, (x / kTileColumns + 1) * kTileColumns);
      std::fill_n(image.labels.get() + image.index(y, x), stop - x, label);
      x = stop;
    }
  });
  for (int64_t x = image.width; x % kTileColumns != 0; ++x) {
    image.labels.get()[image.index(y, x)] = 0;
  }
}

// The colours of one row of sRGB.
template <typename T>
class ColourReader {
 public:
  explicit ColourReader(const Slic& args)
      : root_(args.root.as<int16_t>()), linear_(args.linear.as<int16_t>()) {}

  void read(const T* pixels, int64_t channel_stride, int64_t width, int colour_bits,
            RowBuffers& row) const {
    for (int channel = 0; channel < slic::kLayer; ++channel) {
      find_light(pixels + channel * channel_stride, width, linear_, row.levels.data(),
                 row.light[channel].data());
    }
    find_tristimulus(width, row.light[0].data(), row.light[1].data(), row.light[2].data());
    for (auto& values : row.light) look_up(root_, values.data(), width, values.data());
    find_colours(width, colour_bits, row.light[0].data(), row.light[1].data(), row.light[2].data(),
                 row.colours[0].data(), row.colours[1].data(), row.colours[2].data());
  }

 private:
  const int16_t *root_, *linear_;
};

// The channels of a layer as they are, of one row.
void read_channels(const int16_t* pixels, int64_t channel_stride, int64_t channels, int64_t width,
                   int colour_bits, RowBuffers& row) {
  for (int64_t channel = 0; channel < slic::kLayer; ++channel) {
    std::vector<int16_t>& colours = row.colours[channel];
    if (channel >= channels) {
      std::fill(colours.begin(), colours.end(), int16_t{0});
      continue;
    }
    const int16_t* values = pixels + channel * channel_stride;
    for (int64_t x = 0; x < width; ++x) {
      colours[x] = static_cast<int16_t>(values[x] << colour_bits);
    }
  }
}

// Calls read_row(pixels, layer, row) for each row and layer, `pixels` its first channel's.
template <typename T, typename ReadRow>
void read(const Slic& args, int64_t number, int64_t begin, int64_t end, TiledImage& image,
          SegmentSums* sums, const ReadRow& read_row) {
  const TensorView& images = args.images;
  const int32_t* start = args.start.data == nullptr
                             ? nullptr
                             : args.start.as<int32_t>() + number * image.height * image.width;
  RowBuffers row(image.width);
  const int64_t labels = args.rows * args.columns;
  const int64_t end_y = std::min(end * kTileRows, image.height);
  for (int64_t y = begin * kTileRows; y < end_y; ++y) {
    const T* pixels = images.as<T>() + number * images.stride(0) + y * images.stride(2);
    label_row(args, start, y, image);
    for (int64_t layer = 0; layer < static_cast<int64_t>(image.layers.size()); ++layer) {
      read_row(pixels + layer * slic::kLayer * images.stride(1), layer, row);
      store_row(row, y, image, image.layers[layer]);
      for_first_runs(args, start, y, [&](int32_t label, int64_t first, int64_t last) {
        if (label >= 0) add_run(row, y, first, last, sums[layer * labels + label]);
      });
    }
  }
}

}  // namespace

void TiledImage::resize(int64_t new_height, int64_t new_width, int64_t new_layers) {
  height = new_height, width = new_width;
  strips = (height + kTileRows - 1) / kTileRows;
  tiles_across = (width + kTileColumns - 1) / kTileColumns;
  const int64_t pixels = strips * tiles_across * kTilePixels;
  layers.resize(new_layers);
  for (Layer& layer : layers) {
    layer.light_and_a.reserve(pixels);
    layer.b.reserve(pixels);
  }
  labels.reserve(pixels);
}

int64_t TiledImage::bytes() const {
  int64_t bytes = labels.bytes();
  for (const Layer& layer : layers) bytes += layer.light_and_a.bytes() + layer.b.bytes();
  return bytes;
}

void read_strips(const Slic& args, int64_t number, int64_t begin, int64_t end, TiledImage& image,
                 SegmentSums* sums) {
  const int64_t stride = args.images.stride(1), width = image.width;
  if (args.images.dtype == DType::kInt16) {
    const int64_t channels = args.images.size(1);
    return read<int16_t>(args, number, begin, end, image, sums,
                         [&](const int16_t* pixels, int64_t layer, RowBuffers& row) {
                           read_channels(pixels, stride, channels - layer * slic::kLayer, width,
                                         image.colour_bits, row);
                         });
  }
  const auto read_colours = [&]<typename T>(ElementTag<T>) {
    const ColourReader<T> reader(args);
    read<T>(args, number, begin, end, image, sums, [&](const T* pixels, int64_t, RowBuffers& row) {
      reader.read(pixels, stride, width, image.colour_bits, row);
    });
  };
  if (args.images.dtype == DType::kUInt8) return read_colours(ElementTag<uint8_t>{});
  with_floating_type("slic", args.images.dtype, read_colours);
}

}  // namespace wsol::cpu
