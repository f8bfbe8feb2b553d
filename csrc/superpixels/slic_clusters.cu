// CUDA: k-means of slic. Images lie in tiles of 32 x 16 pixels; a block owns a tile, a warp a patch
// of 8 x 8 in it, so that it meets few centres, and a thread two pixels. In shared memory lie the
// centres in reach of the tile, 32 at a time, with what their offsets from its rows and columns add
// to distances. Moves 16 bytes a pixel and round; limited by integer arithmetic, about a dozen
// instructions for a pixel and a centre in reach of its patch.
//
// Sums add up in a warp, then by atomics on integers. An image whose labels stay is at rest, since
// its centres would stay too: later launches return at once.
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
  int y0, x0, y1, x1;  // the first and the last row and column
  int row, column;     // of the thread's first pixel in the tile; the other lies four rows below
  bool inside[kPixels];

  __device__ explicit Tile(const SlicWork& work) {
    const unsigned across = (work.width - 1) / kTileWidth + 1;
    const unsigned tiles = across * ((work.height - 1) / kTileHeight + 1);
    const unsigned tile = blockIdx.x % tiles;
    image = blockIdx.x / tiles;
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
};

static_assert(kTileHeight * kTileWidth == kPixels * kThreads);

// Adds the thread's pixels to the sums of their labels.
__device__ void add_to_sums(const SlicWork& work, const Tile& tile, const int (&labels)[kPixels],
                            const slic::Colour (&colours)[kPixels]) {
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
      atomicAdd(&work.sums[(tile.image * work.centres + label) * kFields + lane],
                static_cast<Word>(sum));
    }
  });
}

template <typename T>
struct Images {
  const T* data;
  int64_t image_stride, channel_stride, row_stride;
};

template <typename T>
__device__ int level_of(T stored) {
  if constexpr (sizeof(T) == 1) {
    return stored * slic::kLevelsOfByte;
  } else {
    const auto value = Element<T>::load(stored);
    if (!(value > 0)) return 0;  // NaN too
    return value < 1 ? static_cast<int>(rint(value * slic::kLevels)) : slic::kLevels;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 8)
    start_kernel(SlicWork work, Images<T> images, const int16_t* linear, const int16_t* root) {
  auto* cells = reinterpret_cast<int*>(dynamic_shared());  // of the tile's rows, then columns
  const Tile tile(work);
  for (int i = threadIdx.x; i < kTerms; i += kThreads) {
    const int64_t y = tile.y0 + i, x = tile.x0 + i - kTileHeight;
    cells[i] = static_cast<int>(i < kTileHeight ? y * work.rows / work.height * work.columns
                                                : x * work.columns / work.width);
  }
  __syncthreads();
  int labels[kPixels] = {};
  slic::Colour colours[kPixels] = {};
  for (int j = 0; j < kPixels; ++j) {
    if (!tile.inside[j]) continue;
    const T* value = images.data + tile.image * images.image_stride +
                     (tile.y0 + tile.row_of(j)) * images.row_stride + tile.x0 + tile.column;
    int light[3];
    for (int channel = 0; channel < 3; ++channel) {
      light[channel] = linear[level_of(value[channel * images.channel_stride])];
    }
    colours[j] = slic::lab_of(light[0], light[1], light[2], root);
    labels[j] = cells[tile.row_of(j)] + cells[kTileHeight + tile.column];
    work.words[tile.pixel(work, j)] = packed(colours[j]);
    work.labels[tile.pixel(work, j)] = labels[j];
  }
  add_to_sums(work, tile, labels, colours);
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
          in_reach = is_in_reach(box.x, box.y, tile.y0, tile.y1, work.reach_y) &&
                     is_in_reach(box.z, box.w, tile.x0, tile.x1, work.reach_x);
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
        in_reach = is_in_reach(y, y, tile.y0, tile.y1, work.reach_y) &&
                   is_in_reach(x, x, tile.x0, tile.x1, work.reach_x);
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
        away > (is_row ? work.reach_y : work.reach_x)
            ? kOutOfReach
            : slic::place_term(int64_t{pixel} * slic::kPlaceUnit - at, work.weight);
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
      const bool in_reach = is_in_reach(y, y, top, top + kPatch - 1, work.reach_y) &&
                            is_in_reach(x, x, left, left + kPatch - 1, work.reach_x);
      patches |= static_cast<unsigned>(in_reach) << warp;
    }
    shared.patches[i] = patches;
  }
}

__global__ void __launch_bounds__(kThreads, 5) assign_kernel(SlicWork work, int iteration) {
  auto& shared = *reinterpret_cast<AssignShared*>(dynamic_shared());
  const Tile tile(work);
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
          const int l = colours[j].lightness - centre.x, a = colours[j].a - centre.y,
                    b = colours[j].b - centre.z;
          const unsigned distance = static_cast<unsigned>(l * l + a * a + b * b) + along +
                                    shared.terms[i][tile.row_of(j)];
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
  add_to_sums(work, tile, nearest, colours);
}

// Centres of the labels that `iteration` changed, boxes around groups of them, and sums for the
// next.
__global__ void __launch_bounds__(kThreads) centres_kernel(SlicWork work, int iteration) {
  const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize;
  const int64_t image = warp / work.groups, group = warp % work.groups;
  if (image >= work.batch || work.changed[image] < iteration) return;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t number = group * kWarpSize + lane;
  constexpr int kNone = 0x7fffffff;
  int4 box = make_int4(kNone, -kNone, kNone, -kNone);
  if (number < work.centres) {
    Centre& centre = work.centre[image * work.centres + number];
    // Two fields at once.
    auto* sums =
        reinterpret_cast<ulonglong2*>(work.sums + (image * work.centres + number) * kFields);
    const ulonglong2 place = sums[0], colour = sums[1], last = sums[2];
    const auto pixels = static_cast<int64_t>(last.y);
    if (pixels > 0) {
      const auto mean = [&](Word sum) {
        return slic::rounded_mean(static_cast<int64_t>(sum), pixels);
      };
      const auto short_mean = [&](Word sum) { return static_cast<int16_t>(mean(sum)); };
      centre = {mean(place.x),        mean(place.y),      short_mean(colour.x),
                short_mean(colour.y), short_mean(last.x), 0};
      for (int f = 0; f < kFields / 2; ++f) sums[f] = make_ulonglong2(0, 0);
    }
    const int y = slic::pixel_of(centre.y), x = slic::pixel_of(centre.x);
    box = make_int4(y, y, x, x);
  }
  box.x = __reduce_min_sync(kFullWarp, box.x);
  box.y = __reduce_max_sync(kFullWarp, box.y);
  box.z = __reduce_min_sync(kFullWarp, box.z);
  box.w = __reduce_max_sync(kFullWarp, box.w);
  if (lane == 0) work.boxes[image * work.groups + group] = box;
}

template <typename T>
void start(const Slic& args, const SlicWork& work, unsigned tiles, Stream stream) {
  const Images<T> images{args.images.as<T>(), args.images.stride(0), args.images.stride(1),
                         args.images.stride(2)};
  launch(kName, start_kernel<T>, tiles, kThreads, kTerms * sizeof(int), stream, work, images,
         args.linear.as<int16_t>(), args.root.as<int16_t>());
}

}  // namespace

void cluster(const Slic& args, const SlicWork& work, Stream stream) {
  const auto tiles = static_cast<unsigned>(work.batch * ((work.height - 1) / kTileHeight + 1) *
                                           ((work.width - 1) / kTileWidth + 1));
  const unsigned centre_blocks = blocks_for(work.batch * work.groups, kWarps);
  if (args.images.dtype == DType::kUInt8) {
    start<uint8_t>(args, work, tiles, stream);
  } else {
    with_floating_type(kName, args.images.dtype,
                       [&]<typename T>(ElementTag<T>) { start<T>(args, work, tiles, stream); });
  }
  const auto iterations = static_cast<int>(std::min<int64_t>(args.max_num_iter, 0x7ffffffe));
  for (int iteration = 0; iteration < iterations; ++iteration) {
    launch(kName, centres_kernel, centre_blocks, kThreads, 0, stream, work, iteration);
    launch(kName, assign_kernel, tiles, kThreads, sizeof(AssignShared), stream, work,
           iteration + 1);
  }
}

}  // namespace wsol::cuda::superpixels
