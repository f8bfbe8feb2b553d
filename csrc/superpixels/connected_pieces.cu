// CUDA: step 4 of slic, pieces of equal labels, the small ones joined. A piece is its first pixel,
// the root of its union-find. All numbers are integers that atomics add or take the least of, so no
// order matters. At first a block owns a tile of 32 x 32 pixels, whose pieces it finds in shared
// memory; only its borders meet others. Then a warp owns 32 pixels of a row, or of some rows. Moves
// some 50 bytes a pixel, and 12 more each round: limited by latency where images are small, by
// bandwidth where the batch is large.
//
// Every small piece that touches another joins one at least as large as the smallest of them, so in
// each round the smallest grows twofold: the number of rounds follows from the sizes alone, and no
// one waits for the device to say that it is done. Launches for images that are done return at
// once.
#include "core/union_find.cuh"
#include "superpixels/slic_work.cuh"

namespace wsol::cuda::superpixels {
namespace {

constexpr Word kNoChoice = ~Word{0};
constexpr int kPatchRows = 8;  // that a warp looks for neighbours in
constexpr int kTile = 32;      // rows and columns
constexpr int kBlocks = 4096;  // of a launch, about: more, and each would have too little to do

// The image of a block; as many blocks have each.
struct Image {
  const SlicWork& work;
  unsigned blocks, block;
  int64_t image;
  int least;  // pixels of a piece that is not small: it has half the mean

  __device__ explicit Image(const SlicWork& given) : work(given) {
    blocks = gridDim.x / static_cast<unsigned>(work.batch);
    block = blockIdx.x % blocks;
    image = blockIdx.x / blocks;
    const int64_t twice = 2 * int64_t{work.centres};
    least = static_cast<int>((scale_of(work, image).pixels + twice - 1) / twice);
  }

  // Where they are is found anew each time, as pointers would take registers.
  __device__ int* sizes() const { return work.sizes + image * work.pixels; }
  __device__ int* roots() const { return work.roots + image * work.pixels; }
  __device__ int* joined() const { return work.joined + image; }
  __device__ Word* words(int layer = 0) const {
    return work.words + (layer * work.batch + image) * work.pixels;
  }
  __device__ Word* sums_of(int root, int layer) const {
    const int64_t pixel = (layer * work.batch + image) * work.pixels + root;
    return work.colour_sums + pixel * kColourFields;
  }

  // Calls visit(p, inside) for the pixels, a whole warp at a time; `inside` is false for lanes
  // beyond the last pixel.
  template <typename Visit>
  __device__ void for_each_pixel(const Visit& visit) const {
    const unsigned lane = threadIdx.x % kWarpSize, end = work.pixels;
    for (unsigned p = block * kThreads + threadIdx.x; p - lane < end; p += blocks * kThreads) {
      visit(static_cast<int>(p), p < end);
    }
  }

  __device__ bool is_small(int size) const { return size < least; }
};

// A tile: of a block, or of a warp.
struct Tile {
  int64_t image;
  int y0, x0;

  __device__ Tile(const SlicWork& work, int64_t number) {
    const int64_t across = (work.width - 1) / kTile + 1;
    const int64_t tiles = across * ((work.height - 1) / kTile + 1);
    image = number / tiles;
    y0 = static_cast<int>(number % tiles / across) * kTile;
    x0 = static_cast<int>(number % tiles % across) * kTile;
  }
};

struct TileShared {
  int labels[kTile * kTile], roots[kTile * kTile];
};

// Roots within the tile; sums of those that are one start as 0.
__global__ void __launch_bounds__(kThreads) start_kernel(SlicWork work) {
  auto& shared = *reinterpret_cast<TileShared*>(dynamic_shared());
  const Tile tile(work, blockIdx.x);
  const int lane = threadIdx.x % kWarpSize, x = tile.x0 + lane;
  const int64_t image = tile.image * work.pixels;
  for (int row = threadIdx.x / kWarpSize; row < kTile; row += kWarps) {
    const int y = tile.y0 + row, cell = row * kTile + lane;
    const bool inside = y < work.height && x < work.width;
    const int label = inside ? work.labels[image + int64_t{y} * work.width + x] : -1;
    const int before = __shfl_up_sync(kFullWarp, label, 1);
    shared.labels[cell] = label;
    shared.roots[cell] = row * kTile + lane_of_start(lane > 0 && before == label);
  }
  __syncthreads();
  for (int row = threadIdx.x / kWarpSize; row < kTile; row += kWarps) {
    const int cell = row * kTile + lane, label = shared.labels[cell];
    const bool joins = row > 0 && label >= 0 && shared.labels[cell - kTile] == label;
    // Once where two runs meet.
    const int before = __shfl_up_sync(kFullWarp, joins ? label : -1, 1);
    if (joins && (lane == 0 || before != label)) unite(shared.roots, cell, cell - kTile);
  }
  __syncthreads();
  for (int row = threadIdx.x / kWarpSize; row < kTile; row += kWarps) {
    const int y = tile.y0 + row, cell = row * kTile + lane;
    if (y >= work.height || x >= work.width) continue;
    const int root = find_root(shared.roots, cell);
    const int64_t pixel = image + int64_t{y} * work.width + x;
    work.roots[pixel] = shared.labels[cell] < 0
                            ? -1
                            : (tile.y0 + root / kTile) * work.width + tile.x0 + root % kTile;
    work.sizes[pixel] = 0;
    if (root != cell) continue;
    for (int layer = 0; layer < work.layers; ++layer) {
      Word* sums = work.colour_sums + (layer * work.batch * work.pixels + pixel) * kColourFields;
      for (int f = 0; f < kColourFields; ++f) sums[f] = 0;
    }
  }
}

// Joins what goes on beyond tiles' first rows and columns; a warp owns a tile.
__global__ void __launch_bounds__(kThreads) unite_tiles_kernel(SlicWork work, int64_t tiles) {
  const int64_t number = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize;
  if (number >= tiles) return;
  const Tile tile(work, number);
  const int lane = threadIdx.x % kWarpSize;
  const int* labels = work.labels + tile.image * work.pixels;
  int* roots = work.roots + tile.image * work.pixels;
  // Pixels of the edge, and those `step` before them beyond it.
  const auto unite_along = [&](int y, int x, int step) {
    const int pixel = y * work.width + x;
    const bool inside = y < work.height && x < work.width;
    const int label = inside ? labels[pixel] : -1;
    const bool joins = label >= 0 && labels[pixel - step] == label;
    const int before = __shfl_up_sync(kFullWarp, joins ? label : -1, 1);
    if (joins && (lane == 0 || before != label)) unite(roots, pixel, pixel - step);
  };
  if (tile.y0 > 0) unite_along(tile.y0, tile.x0 + lane, work.width);
  if (tile.x0 > 0) unite_along(tile.y0 + lane, tile.x0, 1);
}

// Sizes and colours of the pieces, by their roots.
__global__ void __launch_bounds__(kThreads) measure_kernel(SlicWork work) {
  const Image image(work);
  image.for_each_pixel([&](int p, bool inside) {
    int own = inside ? image.roots()[p] : -1;
    if (own >= 0) {
      const int root = find_root(image.roots(), own);
      if (root != own) image.roots()[p] = root;
      own = root;
    }
    for (int layer = 0; layer < work.layers; ++layer) {
      int root[1] = {own}, values[1][kColourFields + 1] = {};
      if (own >= 0) {
        const slic::Colour colour = unpacked(image.words(layer)[p]);
        values[0][0] = colour.lightness;
        values[0][1] = colour.a;
        values[0][2] = colour.b;
        values[0][3] = 1;
        if (layer == 0) image.words()[p] = kNoChoice;
      }
      sum_by_label(root, values, [&](int to, const int (&sums)[kColourFields + 1]) {
        const int lane = threadIdx.x % kWarpSize;
        int sum = 0;
#pragma unroll
        for (int f = 0; f < kColourFields; ++f) sum = f == lane ? sums[f] : sum;
        if (lane < kColourFields) {
          atomicAdd(&image.sums_of(to, layer)[lane], static_cast<Word>(int64_t{sum}));
        }
        if (lane == kColourFields && layer == 0) atomicAdd(&image.sizes()[to], sums[kColourFields]);
      });
    }
  });
}

// slic::rounded_mean of a colour, which is small enough for float32 to be one off at most: a
// division of 64 bits would take registers.
__device__ int mean_colour(Word sum, int size) {
  const int64_t numerator = 2 * static_cast<int64_t>(sum) + size, denominator = 2 * int64_t{size};
  const int near =
      static_cast<int>(floorf(static_cast<float>(numerator) / static_cast<float>(denominator)));
  const int64_t rest = numerator - near * denominator;
  return rest < 0 ? near - 1 : rest >= denominator ? near + 1 : near;
}

// Offers each of two neighbours to the other where that is small. Whether any was.
__device__ bool offer(const Image& image, int one, int other) {
  const int size = image.sizes()[one], other_size = image.sizes()[other];
  const bool one_is_small = image.is_small(size), other_is_small = image.is_small(other_size);
  if (!one_is_small && !other_is_small) return false;
  Word contrast = 0;
  for (int layer = 0; layer < image.work.layers; ++layer) {
    const Word *sums = image.sums_of(one, layer), *other_sums = image.sums_of(other, layer);
#pragma unroll 1  // more would take registers
    for (int f = 0; f < kColourFields; ++f) {
      const int difference = mean_colour(sums[f], size) - mean_colour(other_sums[f], other_size);
      contrast += static_cast<Word>(difference * difference);
    }
  }
  const auto choose = [&](int piece, int neighbour) {
    const Word choice = contrast << 32 | static_cast<unsigned>(neighbour);
    // Most borders come late, and an atomic that changes nothing is dear.
    const volatile Word* best = &image.words()[piece];
    if (choice < *best) atomicMin(&image.words()[piece], choice);
  };
  if (one_is_small) choose(one, other);
  if (other_is_small) choose(other, one);
  return true;
}

// Pairs of pieces that a block met, by their hashes: most borders go on for some pixels.
struct ChooseShared {
  static constexpr int kPairs = 512;
  Word pairs[kPairs];

  __device__ bool met(int one, int other) {
    const auto low = static_cast<unsigned>(min(one, other)),
               high = static_cast<unsigned>(max(one, other));
    const Word pair = Word{high} << 32 | low;  // never 0, as both differ
    const unsigned place = (high * 0x9e3779b1u ^ low * 0x85ebca6bu) >> 23;
    return atomicExch(&pairs[place], pair) == pair;
  }
};
static_assert(ChooseShared::kPairs == 1 << (32 - 23));

__global__ void __launch_bounds__(kThreads) choose_kernel(SlicWork work, int round) {
  auto& shared = *reinterpret_cast<ChooseShared*>(dynamic_shared());
  const Image image(work);
  // Blocks of this round write to it too, but only where all of them go on.
  if (*image.joined() < round - 1) return;
  for (int i = threadIdx.x; i < ChooseShared::kPairs; i += kThreads) shared.pairs[i] = 0;
  __syncthreads();
  const unsigned across = (work.width - 1) / kWarpSize + 1;
  const unsigned patch = image.block * kWarps + threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int x = static_cast<int>(patch % across * kWarpSize + lane);
  const int y = static_cast<int>(patch / across * kPatchRows);
  const int end = min(y + kPatchRows, work.height);  // before y where there is no such patch
  bool found = false;
  int named = -1, root = -1;  // of the row before
#pragma unroll 1              // more would take registers
  for (int row = max(y - 1, 0); row < end; ++row) {
    const int above = root;
    int* own = image.roots() + row * work.width + x;
    const int named_here = x < work.width ? *own : -1;
    if (named_here != named) {
      // Before the first round, roots are no one else's.
      root = named_here < 0 || round == 1 ? named_here : find_root(image.roots(), named_here);
    }
    named = named_here;
    if (row < y) continue;
    if (root != named) *own = root;
    int left = __shfl_up_sync(kFullWarp, root, 1);
    if (lane == 0) {
      left = x > 0 && x < work.width ? own[-1] : -1;
      if (left >= 0) left = find_root(image.roots(), left);
    }
#pragma unroll 1  // one copy of `offer`
    for (int side = 0; side < 2; ++side) {
      const int other = side == 0 ? above : left;
      if (root < 0 || other < 0 || root == other || shared.met(root, other)) continue;
      found |= offer(image, root, other);
    }
  }
  if (found) *image.joined() = round;
}

// A pixel has a size where it was a root before this round.
__global__ void __launch_bounds__(kThreads) unite_pieces_kernel(SlicWork work, int round) {
  const Image image(work);
  if (*image.joined() < round) return;
  image.for_each_pixel([&](int p, bool inside) {
    const int size = inside ? image.sizes()[p] : 0;
    if (size == 0 || !image.is_small(size)) return;
    const Word choice = image.words()[p];
    if (choice != kNoChoice) unite(image.roots(), p, static_cast<int>(choice & 0xffffffffu));
  });
}

__global__ void __launch_bounds__(kThreads) gather_kernel(SlicWork work, int round) {
  const Image image(work);
  if (*image.joined() < round) return;
  image.for_each_pixel([&](int p, bool inside) {
    const int size = inside ? image.sizes()[p] : 0;
    if (size == 0) return;
    image.words()[p] = kNoChoice;
    const int root = find_root(image.roots(), p);
    if (root == p) return;
    image.roots()[p] = root;
    image.sizes()[p] = 0;
    atomicAdd(&image.sizes()[root], size);
    for (int layer = 0; layer < work.layers; ++layer) {
      for (int f = 0; f < kColourFields; ++f) {
        atomicAdd(&image.sums_of(root, layer)[f], image.sums_of(p, layer)[f]);
      }
    }
  });
}

}  // namespace

void join_pieces(const SlicWork& work, Stream stream) {
  const int64_t most = std::max<int64_t>(1, kBlocks / work.batch);
  const int64_t blocks = std::min<int64_t>(blocks_for(work.pixels, kThreads), most);
  const auto grid = static_cast<unsigned>(blocks * work.batch);
  const int64_t tiles =
      work.batch * ((work.width - 1) / kTile + 1) * ((work.height - 1) / kTile + 1);
  launch(kName, start_kernel, static_cast<unsigned>(tiles), kThreads, sizeof(TileShared), stream,
         work);
  launch(kName, unite_tiles_kernel, blocks_for(tiles, kWarps), kThreads, 0, stream, work, tiles);
  launch(kName, measure_kernel, grid, kThreads, 0, stream, work);
  const int64_t patches =
      ((work.width - 1) / kWarpSize + 1) * int64_t{blocks_for(work.height, kPatchRows)};
  const auto patch_grid = static_cast<unsigned>(blocks_for(patches, kWarps) * work.batch);
  // After a round, small pieces have at least twice the size `least` of before.
  int round = 1;
  for (int64_t least = 1; 2 * least * work.centres < work.pixels; least *= 2, ++round) {
    launch(kName, choose_kernel, patch_grid, kThreads, sizeof(ChooseShared), stream, work, round);
    launch(kName, unite_pieces_kernel, grid, kThreads, 0, stream, work, round);
    launch(kName, gather_kernel, grid, kThreads, 0, stream, work, round);
  }
}

}  // namespace wsol::cuda::superpixels
