// CUDA: k-means of slic. Images lie in tiles of 32 x 16 pixels; a block owns a tile, a warp a patch
// of 8 x 8 in it, so that it meets few centres, and a thread two pixels. In shared memory lie the
// centres in reach of the tile, 32 at a time, with what their offsets from its rows and columns add
// to distances. Moves 16 bytes a pixel and round; limited by integer arithmetic, about a dozen
// instructions for a pixel and a centre in reach of its patch.
//
// Sums add up in a warp, then by atomics on integers. An image whose labels stay is at rest, since
// its centres would stay too: later launches return at once.
#include <type_traits>

#include "superpixels/slic_work.cuh"

namespace wsol::cuda::superpixels {
namespace {

constexpr int kTileHeight = 16, kTileWidth = 32, kPatch = 8;
constexpr int kPixels = 2;       // a thread
constexpr int kCandidates = 32;  // centres whose distances' terms lie in shared memory at once
constexpr int kTerms = kTileHeight + kTileWidth;
// A term of a distance, where it alone is out of reach: more than any sum of those that are not,
// 2 * 2^29 + 2^27, and two of it are no overflow.
constexpr unsigned kOutOfReach = 0x60000000;

// The tile of a block, and its thread's pixels.
struct Tile {
  int64_t image;
  DeviceScale scale;
  int y0, x0, y1, x1;  // the first and the last row and column
  int row, column;     // of the thread's first pixel in the tile; the other lies four rows below
  bool inside[kPixels];

  __device__ explicit Tile(const SlicWork& work) {
    const unsigned across = (work.width - 1) / kTileWidth + 1;
    const unsigned tiles = across * ((work.height - 1) / kTileHeight + 1);
    const unsigned tile = blockIdx.x % tiles;
    image = blockIdx.x / tiles;
    scale = scale_of(work, image);
    y0 = static_cast<int>(tile / across) * kTileHeight;
    x0 = static_cast<int>(tile % across) * kTileWidth;
    y1 = y0 + min(kTileHeight, work.height - y0) - 1;
    x1 = x0 + min(kTileWidth, work.width - x0) - 1;
    const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    column = warp % (kTileWidth / kPatch) * kPatch + lane % kPatch;
    row = warp / (kTileWidth / kPatch) * kPatch + lane / kPatch;
    for (int j = 0; j < kPixels; ++j) inside[j] = x0 + column <= x1 && y0 + row_of(j) <= y1;
  }

  __device__ int row_of(int j) const { return row + j * (kWarpSize / kPatch); }
  __device__ int64_t pixel(const SlicWork& work, int j) const {
    return image * work.pixels + int64_t{y0 + row_of(j)} * work.width + x0 + column;
  }
  // Where a layer's number of the image lies, of those of all images.
  __device__ int64_t in_layer(const SlicWork& work, int layer) const {
    return layer * work.batch + image;
  }
};

static_assert(kTileHeight * kTileWidth == kPixels * kThreads);

// Adds the thread's pixels to a layer's sums of their labels.
__device__ void add_to_sums(const SlicWork& work, const Tile& tile, int layer,
                            const int (&labels)[kPixels], const slic::Colour (&colours)[kPixels]) {
  int values[kPixels][kFields], waiting[kPixels];
  for (int j = 0; j < kPixels; ++j) {
    waiting[j] = tile.inside[j] ? labels[j] : -1;
    const slic::Colour& colour = colours[j];
    const int of_pixel[] = {tile.row_of(j), tile.column, colour.lightness, colour.a, colour.b, 1};
    for (int f = 0; f < kFields; ++f) values[j][f] = of_pixel[f];
  }
  sum_by_label(waiting, values, [&](int label, const int (&sums)[kFields]) {
    const int lane = threadIdx.x % kWarpSize, pixels = sums[kFields - 1];
    int64_t sum = 0;
#pragma unroll
    for (int f = 0; f < kFields; ++f) sum = f == lane ? sums[f] : sum;
    if (lane == 0) sum = (sum + int64_t{pixels} * tile.y0) * slic::kPlaceUnit;
    if (lane == 1) sum = (sum + int64_t{pixels} * tile.x0) * slic::kPlaceUnit;
    if (lane < kFields) {
      atomicAdd(&work.sums[(tile.in_layer(work, layer) * work.centres + label) * kFields + lane],
                static_cast<Word>(sum));
    }
  });
}

template <typename T>
struct Images {
  const T* data;
  int64_t image_stride, channel_stride, row_stride;
};

// Linear light of sRGB: of bytes there is a table in shared memory.
template <typename T>
__device__ int light_of(T stored, const int16_t* linear) {
  if constexpr (sizeof(T) == 1) {
    return linear[stored];
  } else {
    const auto value = Element<T>::load(stored);
    if (!(value > 0)) return linear[0];  // NaN too
    return linear[value < 1 ? static_cast<int>(rint(value * slic::kLevels)) : slic::kLevels];
  }
}

constexpr int kBytes = 256;

struct StartShared {
  int cells[kTerms];  // of the tile's rows, then columns
  int16_t linear[kBytes];
};

template <typename T>
__global__ void __launch_bounds__(kThreads, std::is_same_v<T, int16_t> ? 4 : 8)
    start_kernel(SlicWork work, Images<T> images, const int16_t* linear) {
  auto& shared = *reinterpret_cast<StartShared*>(dynamic_shared());
  const Tile tile(work);
  for (int i = threadIdx.x; i < kTerms; i += kThreads) {
    const int64_t y = tile.y0 + i, x = tile.x0 + i - kTileHeight;
    shared.cells[i] = static_cast<int>(i < kTileHeight ? y * work.rows / work.height * work.columns
                                                       : x * work.columns / work.width);
  }
  if constexpr (sizeof(T) == 1) {
    for (int i = threadIdx.x; i < kBytes; i += kThreads) shared.linear[i] = linear[i];
  }
  __syncthreads();
  int labels[kPixels] = {};
  for (int j = 0; j < kPixels; ++j) {
    if (!tile.inside[j]) continue;
    const int64_t pixel = tile.pixel(work, j);
    if (work.start == nullptr) {
      labels[j] = shared.cells[tile.row_of(j)] + shared.cells[kTileHeight + tile.column];
    } else {
      labels[j] = __ldg(work.start + pixel);
    }
    work.labels[pixel] = labels[j];
  }
  constexpr bool kIsRgb = !std::is_same_v<T, int16_t>;
  for (int layer = 0; layer < (kIsRgb ? 1 : work.layers); ++layer) {
    slic::Colour colours[kPixels] = {};
    for (int j = 0; j < kPixels; ++j) {
      if (!tile.inside[j]) continue;
      const T* value = images.data + tile.image * images.image_stride +
                       (tile.y0 + tile.row_of(j)) * images.row_stride + tile.x0 + tile.column;
      int of_layer[slic::kLayer];
      for (int i = 0; i < slic::kLayer; ++i) {
        const int channel = layer * slic::kLayer + i;
        if constexpr (kIsRgb) {
          const T stored = value[channel * images.channel_stride];
          if constexpr (sizeof(T) == 1) {
            of_layer[i] = light_of(stored, shared.linear);
          } else {
            of_layer[i] = light_of(stored, linear);
          }
        } else {
          of_layer[i] = channel < work.channels ? value[channel * images.channel_stride] : 0;
        }
      }
      if constexpr (kIsRgb) {
        const slic::Tristimulus light = slic::tristimulus_of(of_layer[0], of_layer[1], of_layer[2]);
        colours[j] =
            slic::colour_of(slic::root_of(light.x), slic::root_of(light.y), slic::root_of(light.z));
      } else {
        colours[j] = {of_layer[0], of_layer[1], of_layer[2]};
      }
      work.words[layer * work.batch * work.pixels + tile.pixel(work, j)] = packed(colours[j]);
    }
    add_to_sums(work, tile, layer, labels, colours);
  }
}

// Whether windows of pixels low to high meet first to last.
__device__ bool is_in_reach(int low, int high, int first, int last, int reach) {
  return first - high <= reach && low - last <= reach;
}

// A warp's way through its groups of centres: lane i holds the group i * kWarps + warp of kThreads.
struct Search {
  int first = 0;         // of the groups still to look at
  unsigned waiting = 0;  // lanes whose group, of the kThreads before `first`, is in reach

  __device__ bool goes_on(const SlicWork& work) const {
    return waiting != 0 || first < work.groups;
  }

  // Looks until a group has centres in reach, a bit for each lane, whose centre is `number`.
  __device__ unsigned next(const SlicWork& work, const Tile& tile, int& number) {
    const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    while (goes_on(work)) {
      if (waiting == 0) {
        const int group = first + lane * kWarps + warp;
        bool in_reach = false;
        if (group < work.groups) {
          const int4 box = work.boxes[tile.image * work.groups + group];
          in_reach = is_in_reach(box.x, box.y, tile.y0, tile.y1, tile.scale.reach_y) &&
                     is_in_reach(box.z, box.w, tile.x0, tile.x1, tile.scale.reach_x);
        }
        waiting = __ballot_sync(kFullWarp, in_reach);
        first += kThreads;
        continue;
      }
      const int of_lane = __ffs(static_cast<int>(waiting)) - 1;
      waiting &= waiting - 1;
      number = (first - kThreads + of_lane * kWarps + warp) * kWarpSize + lane;
      bool in_reach = false;
      if (number < work.centres) {
        const Centre& centre = work.centre[tile.image * work.centres + number];
        const int y = slic::pixel_of(centre.y), x = slic::pixel_of(centre.x);
        in_reach = is_in_reach(y, y, tile.y0, tile.y1, tile.scale.reach_y) &&
                   is_in_reach(x, x, tile.x0, tile.x1, tile.scale.reach_x);
      }
      const unsigned found = __ballot_sync(kFullWarp, in_reach);
      if (found != 0) return found;
    }
    return 0;
  }
};

struct AssignShared {
  int4 colours[kCandidates];            // lightness, a, b and the centre's number
  unsigned terms[kCandidates][kTerms];  // of the tile's rows, then columns
  unsigned patches[kCandidates];        // a bit for each warp whose patch is in reach
  float factors[kCandidates];           // of SLICO
  int list[kThreads];                   // centres in reach
  int found[kWarps];                    // how many of them each warp found
};

// Fills in what distances to `count` listed centres from `start` on need.
__device__ void load_candidates(const SlicWork& work, const Tile& tile, AssignShared& shared,
                                int start, int count) {
  const Centre* centres = work.centre + tile.image * work.centres;
  for (int i = threadIdx.x; i < count * kTerms; i += kThreads) {
    const int candidate = i / kTerms, term = i % kTerms;
    const Centre centre = centres[shared.list[start + candidate]];
    const bool is_row = term < kTileHeight;
    const int at = is_row ? centre.y : centre.x;
    const int pixel = is_row ? tile.y0 + term : tile.x0 + term - kTileHeight;
    const int away = abs(pixel - slic::pixel_of(at));
    shared.terms[candidate][term] =
        away > (is_row ? tile.scale.reach_y : tile.scale.reach_x)
            ? kOutOfReach
            : slic::place_term(int64_t{pixel} * slic::kPlaceUnit - at, tile.scale.weight);
  }
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int number = shared.list[start + i];
    const Centre centre = centres[number];
    shared.colours[i] = make_int4(centre.lightness, centre.a, centre.b, number);
    const int y = slic::pixel_of(centre.y), x = slic::pixel_of(centre.x);
    unsigned patches = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
      const int top = tile.y0 + warp / (kTileWidth / kPatch) * kPatch;
      const int left = tile.x0 + warp % (kTileWidth / kPatch) * kPatch;
      const bool in_reach = is_in_reach(y, y, top, top + kPatch - 1, tile.scale.reach_y) &&
                            is_in_reach(x, x, left, left + kPatch - 1, tile.scale.reach_x);
      patches |= static_cast<unsigned>(in_reach) << warp;
    }
    shared.patches[i] = patches;
    if (work.least_contrast > 0) {
      shared.factors[i] =
          __fdiv_rn(static_cast<float>(work.least_contrast),
                    static_cast<float>(work.contrasts[tile.image * work.centres + number]));
    }
  }
}

__device__ inline int contrast_of(const slic::Colour& one, int lightness, int a, int b) {
  const int l = one.lightness - lightness, of_a = one.a - a, of_b = one.b - b;
  return l * l + of_a * of_a + of_b * of_b;
}

// What the layers after the first add to the contrast of a pixel to a centre.
__device__ inline int contrast_of_more(const SlicWork& work, const Tile& tile, int64_t pixel,
                                       int number) {
  int contrast = 0;
  for (int layer = 1; layer < work.layers; ++layer) {
    const Centre& centre = work.centre[tile.in_layer(work, layer) * work.centres + number];
    const slic::Colour colour = unpacked(work.words[layer * work.batch * work.pixels + pixel]);
    contrast += contrast_of(colour, centre.lightness, centre.a, centre.b);
  }
  return contrast;
}

// Plain is one layer, and not SLICO.
template <bool kPlain>
__global__ void __launch_bounds__(kThreads, kPlain ? 5 : 3)
    assign_kernel(SlicWork work, int iteration) {
  auto& shared = *reinterpret_cast<AssignShared*>(dynamic_shared());
  Tile tile(work);
  // Blocks of this iteration write to it too, but only where all of them go on.
  if (work.changed[tile.image] < iteration - 1) return;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  int before[kPixels] = {}, nearest[kPixels];
  unsigned distances[kPixels];
  slic::Colour colours[kPixels] = {};
  for (int j = 0; j < kPixels; ++j) {
    if (tile.inside[j]) {
      before[j] = work.labels[tile.pixel(work, j)];
      colours[j] = unpacked(work.words[tile.pixel(work, j)]);
      tile.inside[j] = before[j] >= 0;  // of the mask
    }
    nearest[j] = before[j];
    distances[j] = kOutOfReach - 1;
  }

  for (Search search;;) {
    int number = 0;
    const unsigned in_reach = search.next(work, tile, number);
    if (lane == 0) shared.found[warp] = __popc(in_reach);
    const bool is_last = !__syncthreads_or(search.goes_on(work));
    int total = 0, place = __popc(in_reach & ((1u << lane) - 1));
    for (int i = 0; i < kWarps; ++i) {
      if (i < warp) place += shared.found[i];
      total += shared.found[i];
    }
    if (in_reach >> lane & 1) shared.list[place] = number;
    for (int start = 0; start < total; start += kCandidates) {
      const int count = min(kCandidates, total - start);
      __syncthreads();  // the list is written; the candidates before these have been met
      load_candidates(work, tile, shared, start, count);
      __syncthreads();
      for (int i = 0; i < count; ++i) {
        if ((shared.patches[i] >> warp & 1) == 0) continue;
        const int4 centre = shared.colours[i];
        const unsigned along = shared.terms[i][kTileHeight + tile.column];
        for (int j = 0; j < kPixels; ++j) {
          int contrast = contrast_of(colours[j], centre.x, centre.y, centre.z);
          if constexpr (!kPlain) {
            if (tile.inside[j] && work.layers > 1) {
              contrast += contrast_of_more(work, tile, tile.pixel(work, j), centre.w);
            }
            if (work.least_contrast > 0) {
              contrast = slic::scaled_contrast(contrast, shared.factors[i]);
            }
          }
          const unsigned distance =
              static_cast<unsigned>(contrast) + along + shared.terms[i][tile.row_of(j)];
          if (distance < distances[j] || (distance == distances[j] && centre.w < nearest[j])) {
            distances[j] = distance;
            nearest[j] = centre.w;
          }
        }
      }
    }
    if (is_last) break;
    __syncthreads();  // all have read what was found
  }

  bool has_changed = false;
  for (int j = 0; j < kPixels; ++j) {
    if (!tile.inside[j] || nearest[j] == before[j]) continue;
    work.labels[tile.pixel(work, j)] = nearest[j];
    has_changed = true;
  }
  if (__any_sync(kFullWarp, has_changed) && lane == 0) work.changed[tile.image] = iteration;
  add_to_sums(work, tile, 0, nearest, colours);
  if constexpr (!kPlain) {
    for (int layer = 1; layer < work.layers; ++layer) {
      for (int j = 0; j < kPixels; ++j) {
        if (!tile.inside[j]) continue;
        colours[j] = unpacked(work.words[layer * work.batch * work.pixels + tile.pixel(work, j)]);
      }
      add_to_sums(work, tile, layer, nearest, colours);
    }
  }
}

// At once: number by number, each would ask for all lanes' sectors.
__device__ void store(Centre& to, const Centre& centre) {
  static_assert(sizeof(Centre) == sizeof(int4));
  const auto pair = [](int16_t low, int16_t high) {
    return static_cast<int>(static_cast<uint16_t>(low)) | static_cast<int>(high) << 16;
  };
  reinterpret_cast<int4&>(to) = make_int4(centre.y, centre.x, pair(centre.lightness, centre.a),
                                          pair(centre.b, centre.unused));
}

constexpr int kPitch = kFields + 1;  // of 8 bytes: odd, so that lanes meet in no bank
struct CentresShared {
  Word sums[kWarps][kWarpSize * kPitch];
};

// Centres of the labels that `iteration` changed, boxes around groups of them, and sums for the
// next. A warp owns a group of a layer.
__global__ void __launch_bounds__(kThreads) centres_kernel(SlicWork work, int iteration) {
  auto& shared = *reinterpret_cast<CentresShared*>(dynamic_shared());
  const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize;
  const int64_t in_layer = warp / work.groups, group = warp % work.groups;
  const int64_t image = in_layer % work.batch;
  if (in_layer >= work.layers * work.batch || work.changed[image] < iteration) return;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t first = group * kWarpSize;
  const auto count = static_cast<int>(min(int64_t{kWarpSize}, work.centres - first));
  Word* sums = shared.sums[threadIdx.x / kWarpSize];
  Word* of_group = work.sums + (in_layer * work.centres + first) * kFields;
  for (int i = lane; i < count * kFields; i += kWarpSize) {
    sums[i / kFields * kPitch + i % kFields] = of_group[i];
    of_group[i] = 0;
  }
  __syncwarp();
  constexpr int kNone = 0x7fffffff;
  int4 box = make_int4(kNone, -kNone, kNone, -kNone);
  if (lane < count) {
    Centre& centre = work.centre[in_layer * work.centres + first + lane];
    const Word* own = sums + lane * kPitch;
    const auto pixels = static_cast<int64_t>(own[kFields - 1]);
    const auto mean = [&](int field) {
      return slic::rounded_mean(static_cast<int64_t>(own[field]), pixels);
    };
    const auto short_mean = [&](int field) { return static_cast<int16_t>(mean(field)); };
    int y = slic::kNowhere, x = slic::kNowhere;
    if (pixels > 0) {
      y = mean(0), x = mean(1);
      store(centre, {y, x, short_mean(2), short_mean(3), short_mean(4), 0});
    } else if (iteration > 0) {
      y = centre.y, x = centre.x;
    } else {
      store(centre, {y, x, 0, 0, 0, 0});
    }
    if (y != slic::kNowhere) {
      box = make_int4(slic::pixel_of(y), slic::pixel_of(y), slic::pixel_of(x), slic::pixel_of(x));
    }
    if (iteration == 0 && in_layer == image && work.least_contrast > 0) {
      work.contrasts[image * work.centres + first + lane] = work.least_contrast;
    }
  }
  box.x = __reduce_min_sync(kFullWarp, box.x);
  box.y = __reduce_max_sync(kFullWarp, box.y);
  box.z = __reduce_min_sync(kFullWarp, box.z);
  box.w = __reduce_max_sync(kFullWarp, box.w);
  if (lane == 0 && in_layer == image) work.boxes[image * work.groups + group] = box;
}

// SLICO: the largest contrast of each centre's pixels to it, where `iteration` changed labels.
__global__ void __launch_bounds__(kThreads) contrasts_kernel(SlicWork work, int iteration) {
  const Tile tile(work);
  if (work.changed[tile.image] < iteration) return;
  int labels[kPixels], contrasts[kPixels] = {};
  for (int j = 0; j < kPixels; ++j) {
    const int64_t pixel = tile.pixel(work, j);
    labels[j] = tile.inside[j] ? work.labels[pixel] : -1;
    if (labels[j] < 0) continue;
    const Centre& centre = work.centre[tile.image * work.centres + labels[j]];
    contrasts[j] = contrast_of(unpacked(work.words[pixel]), centre.lightness, centre.a, centre.b) +
                   contrast_of_more(work, tile, pixel, labels[j]);
  }
  for (;;) {
    const int next = max(labels[0], labels[1]);
    const unsigned waiting = __ballot_sync(kFullWarp, next >= 0);
    if (waiting == 0) return;
    const int chosen = __shfl_sync(kFullWarp, next, __ffs(static_cast<int>(waiting)) - 1);
    int most = 0;
    for (int j = 0; j < kPixels; ++j) {
      if (labels[j] != chosen) continue;
      most = max(most, contrasts[j]);
      labels[j] = -1;
    }
    most = __reduce_max_sync(kFullWarp, most);
    if (threadIdx.x % kWarpSize == 0) {
      atomicMax(&work.contrasts[tile.image * work.centres + chosen], most);
    }
  }
}

template <typename T>
void start(const Slic& args, const SlicWork& work, unsigned tiles, Stream stream) {
  const Images<T> images{args.images.as<T>(), args.images.stride(0), args.images.stride(1),
                         args.images.stride(2)};
  launch(kName, start_kernel<T>, tiles, kThreads, sizeof(StartShared), stream, work, images,
         args.linear.as<int16_t>());
}

}  // namespace

void cluster(const Slic& args, const SlicWork& work, Stream stream) {
  const auto tiles = static_cast<unsigned>(work.batch * ((work.height - 1) / kTileHeight + 1) *
                                           ((work.width - 1) / kTileWidth + 1));
  const unsigned centre_blocks = blocks_for(work.layers * work.batch * work.groups, kWarps);
  const bool adapts = work.least_contrast > 0;
  if (args.images.dtype == DType::kUInt8) {
    start<uint8_t>(args, work, tiles, stream);
  } else if (args.images.dtype == DType::kInt16) {
    start<int16_t>(args, work, tiles, stream);
  } else {
    with_floating_type(kName, args.images.dtype,
                       [&]<typename T>(ElementTag<T>) { start<T>(args, work, tiles, stream); });
  }
  const auto iterations = static_cast<int>(std::min<int64_t>(args.max_num_iter, 0x7ffffffe));
  for (int iteration = 0; iteration < iterations; ++iteration) {
    launch(kName, centres_kernel, centre_blocks, kThreads, sizeof(CentresShared), stream, work,
           iteration);
    if (adapts && iteration > 0) {
      launch(kName, contrasts_kernel, tiles, kThreads, 0, stream, work, iteration);
    }
    launch(kName, work.layers == 1 && !adapts ? assign_kernel<true> : assign_kernel<false>, tiles,
           kThreads, sizeof(AssignShared), stream, work, iteration + 1);
  }
}

}  // namespace wsol::cuda::superpixels
