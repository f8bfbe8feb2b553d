// CPU: one task an image.
#include "superpixels/slic.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/element_types.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

struct Sums {
  int64_t y = 0, x = 0, lightness = 0, a = 0, b = 0, pixels = 0;
};

struct Centre {
  int32_t y, x;
  slic::Colour colour;
};

template <typename T>
int32_t level_of(T value) {
  if constexpr (std::is_same_v<T, uint8_t>) {
    return value * slic::kLevelsOfByte;
  } else {
    using A = Accumulator<T>;
    const A number = static_cast<A>(value);
    const A inside = number > 0 ? std::min(number, A{1}) : A{0};
    return static_cast<int32_t>(std::nearbyint(inside * slic::kLevels));
  }
}

struct Image {
  int64_t height, width;
  std::vector<slic::Colour> colours;
  int32_t* labels;

  Image(const Slic& args, int64_t image)
      : height(args.labels.size(1)),
        width(args.labels.size(2)),
        colours(height * width),
        labels(args.labels.as<int32_t>() + image * height * width) {
    if (args.images.dtype == DType::kUInt8) {
      read<uint8_t>(args, image);
    } else {
      with_floating_type("slic", args.images.dtype,
                         [&]<typename T>(ElementTag<T>) { read<T>(args, image); });
    }
  }

  template <typename T>
  void read(const Slic& args, int64_t image) {
    const int16_t* linear = args.linear.as<int16_t>();
    const TensorView& images = args.images;
    for (int64_t y = 0; y < height; ++y) {
      const T* row = images.as<T>() + image * images.stride(0) + y * images.stride(2);
      const int64_t channel = images.stride(1);
      for (int64_t x = 0; x < width; ++x) {
        colours[y * width + x] =
            slic::lab_of(linear[level_of(row[x])], linear[level_of(row[channel + x])],
                         linear[level_of(row[2 * channel + x])], args.root.as<int16_t>());
      }
    }
  }
};

void move_centres(const Image& image, std::vector<Centre>& centres) {
  std::vector<Sums> sums(centres.size());
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x) {
      const slic::Colour& colour = image.colours[y * image.width + x];
      Sums& sum = sums[image.labels[y * image.width + x]];
      sum.y += y * slic::kPlaceUnit;
      sum.x += x * slic::kPlaceUnit;
      sum.lightness += colour.lightness;
      sum.a += colour.a;
      sum.b += colour.b;
      ++sum.pixels;
    }
  }
  for (size_t c = 0; c < centres.size(); ++c) {
    const Sums& sum = sums[c];
    if (sum.pixels == 0) continue;
    const auto mean = [&](int64_t total) { return slic::rounded_mean(total, sum.pixels); };
    centres[c] = {mean(sum.y), mean(sum.x), {mean(sum.lightness), mean(sum.a), mean(sum.b)}};
  }
}

bool assign(const Slic& args, const Image& image, const std::vector<Centre>& centres,
            std::vector<int32_t>& nearest) {
  std::fill(nearest.begin(), nearest.end(), std::numeric_limits<int32_t>::max());
  std::vector<int32_t> before(image.labels, image.labels + image.height * image.width);
  for (size_t c = 0; c < centres.size(); ++c) {
    const Centre centre = centres[c];
    const int64_t middle_y = slic::pixel_of(centre.y), middle_x = slic::pixel_of(centre.x);
    const int64_t top = std::max<int64_t>(0, middle_y - args.reach_y);
    const int64_t bottom = std::min(image.height, middle_y + args.reach_y + 1);
    const int64_t left = std::max<int64_t>(0, middle_x - args.reach_x);
    const int64_t right = std::min(image.width, middle_x + args.reach_x + 1);
    for (int64_t y = top; y < bottom; ++y) {
      const int32_t across = slic::place_term(y * slic::kPlaceUnit - centre.y, args.weight);
      for (int64_t x = left; x < right; ++x) {
        const slic::Colour& colour = image.colours[y * image.width + x];
        const int32_t light = colour.lightness - centre.colour.lightness;
        const int32_t a = colour.a - centre.colour.a, b = colour.b - centre.colour.b;
        const int32_t distance = light * light + a * a + b * b + across +
                                 slic::place_term(x * slic::kPlaceUnit - centre.x, args.weight);
        if (distance < nearest[y * image.width + x]) {
          nearest[y * image.width + x] = distance;
          image.labels[y * image.width + x] = static_cast<int32_t>(c);
        }
      }
    }
  }
  return !std::equal(before.begin(), before.end(), image.labels);
}

struct Pieces {
  std::vector<int32_t> parent;

  int32_t root(int32_t piece) {
    while (parent[piece] != piece) piece = parent[piece] = parent[parent[piece]];
    return piece;
  }
  void join(int32_t a, int32_t b) {
    a = root(a), b = root(b);
    parent[std::max(a, b)] = std::min(a, b);
  }
};

void connect(const Slic& args, Image& image) {
  const int64_t width = image.width, pixels = image.height * width;
  Pieces pieces{std::vector<int32_t>(pixels)};
  std::iota(pieces.parent.begin(), pieces.parent.end(), 0);
  const auto for_pairs = [&](auto&& visit) {
    for (int64_t i = 0; i < pixels; ++i) {
      if (i % width > 0) visit(static_cast<int32_t>(i), static_cast<int32_t>(i - 1));
      if (i >= width) visit(static_cast<int32_t>(i), static_cast<int32_t>(i - width));
    }
  };
  for_pairs([&](int32_t a, int32_t b) {
    if (image.labels[a] == image.labels[b]) pieces.join(a, b);
  });
  for (;;) {
    std::vector<Sums> sums(pixels);
    for (int64_t i = 0; i < pixels; ++i) {
      Sums& sum = sums[image.labels[i] = pieces.root(static_cast<int32_t>(i))];
      sum.lightness += image.colours[i].lightness;
      sum.a += image.colours[i].a;
      sum.b += image.colours[i].b;
      ++sum.pixels;
    }
    std::vector<int32_t> choice(pixels, -1);
    std::vector<int64_t> least(pixels);
    const auto offer = [&](int32_t from, int32_t to) {
      const Sums &f = sums[from], &t = sums[to];
      if (2 * f.pixels * args.rows * args.columns >= pixels) return;
      const auto difference = [&](int64_t one, int64_t other) {
        const int64_t d = slic::rounded_mean(one, f.pixels) - slic::rounded_mean(other, t.pixels);
        return d * d;
      };
      const int64_t contrast =
          difference(f.lightness, t.lightness) + difference(f.a, t.a) + difference(f.b, t.b);
      if (choice[from] < 0 || contrast < least[from] ||
          (contrast == least[from] && to < choice[from])) {
        choice[from] = to;
        least[from] = contrast;
      }
    };
    for_pairs([&](int32_t a, int32_t b) {
      a = image.labels[a], b = image.labels[b];
      if (a == b) return;
      offer(a, b);
      offer(b, a);
    });
    bool joined = false;
    for (int64_t i = 0; i < pixels; ++i) {
      if (choice[i] < 0) continue;
      pieces.join(static_cast<int32_t>(i), choice[i]);
      joined = true;
    }
    if (!joined) return;
  }
}

void make_consecutive(const Image& image) {
  const int64_t pixels = image.height * image.width;
  std::vector<int32_t> number(std::max<int64_t>(pixels, 1), 0);
  for (int64_t i = 0; i < pixels; ++i) number[image.labels[i]] = 1;
  std::exclusive_scan(number.begin(), number.end(), number.begin(), 0);
  for (int64_t i = 0; i < pixels; ++i) image.labels[i] = number[image.labels[i]];
}

void segment(const Slic& args, int64_t number) {
  Image image(args, number);
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x) {
      image.labels[y * image.width + x] = static_cast<int32_t>(
          y * args.rows / image.height * args.columns + x * args.columns / image.width);
    }
  }
  std::vector<Centre> centres(args.rows * args.columns);
  std::vector<int32_t> nearest(image.height * image.width);
  move_centres(image, centres);
  for (int64_t i = 0; i < args.max_num_iter && assign(args, image, centres, nearest); ++i) {
    move_centres(image, centres);
  }
  if (args.connect) connect(args, image);
  make_consecutive(image);
}

}  // namespace

int64_t slic_scratch_bytes(int64_t, int64_t, int64_t, int64_t) { return 0; }

void slic(const Slic& args, int threads) {
  parallel_for(args.images.size(0), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) segment(args, i);
  });
}

}  // namespace wsol::cpu
