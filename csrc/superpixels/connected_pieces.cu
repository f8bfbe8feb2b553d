// CUDA: step 4 of slic, pieces of equal labels, the small ones joined. A thread owns a pixel, or a
// few in turn; a piece is its first pixel, the root of its union-find. All numbers are integers
// that atomics add or take the least of, so no order matters. Nothing lies in shared memory. Moves
// some 40 bytes a pixel, and 12 more each round: limited by latency where images are small, by
// bandwidth where the batch is large.
//
// Every small piece joins another at least as large as the smallest of them, so in each round the
// smallest small piece grows twofold: the number of rounds follows from the sizes alone, and no
// one waits for the device to say that it is done. Launches for images that are done return at
// once.
#include "core/union_find.cuh"
#include "superpixels/slic_work.cuh"

namespace wsol::cuda::superpixels {
namespace {

constexpr Word kNoChoice = ~Word{0};
constexpr int kBlocks = 4096;  // of a launch, about: more, and each would have too little to do

// The image of a block; as many blocks have each.
struct Image {
  int width, pixels;
  unsigned blocks, block;
  int64_t centres;
  int *labels, *sizes, *roots, *joined;
  Word *words, *colour_sums;

  __device__ explicit Image(const SlicWork& work)
      : width(work.width), pixels(work.pixels), centres(work.centres) {
    blocks = gridDim.x / static_cast<unsigned>(work.batch);
    block = blockIdx.x % blocks;
    const int64_t image = blockIdx.x / blocks;
    labels = sizes = work.labels + image * pixels;
    roots = work.roots + image * pixels;
    joined = work.joined + image;
    words = work.words + image * pixels;
    colour_sums = work.colour_sums + image * pixels * kColourFields;
  }

  // Calls visit(p, inside) for the pixels, a whole warp at a time; `inside` is false for lanes
  // beyond the last pixel.
  template <typename Visit>
  __device__ void for_each_pixel(const Visit& visit) const {
    const unsigned lane = threadIdx.x % kWarpSize, end = pixels;
    for (unsigned p = block * kThreads + threadIdx.x; p - lane < end; p += blocks * kThreads) {
      visit(static_cast<int>(p), p < end);
    }
  }

  __device__ bool is_small(int size) const { return 2 * centres * size < pixels; }

  __device__ slic::Colour mean_of(int root) const {
    const auto mean = [&](int field) {
      return slic::rounded_mean(
          static_cast<int64_t>(colour_sums[int64_t{root} * kColourFields + field]), sizes[root]);
    };
    return {mean(0), mean(1), mean(2)};
  }
};

__global__ void __launch_bounds__(kThreads) start_kernel(SlicWork work) {
  const Image image(work);
  image.for_each_pixel([&](int p, bool inside) {
    const int lane = threadIdx.x % kWarpSize;
    const bool goes_on = inside && p % image.width != 0 && image.labels[p - 1] == image.labels[p];
    const int start = p - lane + lane_of_start(goes_on);
    if (inside) image.roots[p] = start;
  });
}

__global__ void __launch_bounds__(kThreads) unite_pixels_kernel(SlicWork work) {
  const Image image(work);
  image.for_each_pixel([&](int p, bool inside) {
    if (!inside) return;
    const int width = image.width, own = image.labels[p];
    const bool has_left = p % width != 0, has_above = p >= width;
    const bool left = has_left && image.labels[p - 1] == own;
    const bool above = has_above && image.labels[p - width] == own;
    const bool corner = has_left && has_above && image.labels[p - width - 1] == own;
    if (left && p % kWarpSize == 0) unite(image.roots, p, p - 1);
    if (above && !(left && corner)) unite(image.roots, p, p - width);
  });
}

__global__ void __launch_bounds__(kThreads) flatten_kernel(SlicWork work) {
  const Image image(work);
  image.for_each_pixel([&](int p, bool inside) {
    if (!inside) return;
    const int root = find_root(image.roots, p);
    image.roots[p] = root;
    image.sizes[p] = 0;
    if (root != p) return;
    for (int f = 0; f < kColourFields; ++f) {
      image.colour_sums[int64_t{p} * kColourFields + f] = 0;
    }
  });
}

__global__ void __launch_bounds__(kThreads) measure_kernel(SlicWork work) {
  const Image image(work);
  image.for_each_pixel([&](int p, bool inside) {
    int root[1] = {-1}, values[1][kColourFields + 1] = {};
    if (inside) {
      root[0] = image.roots[p];
      const slic::Colour colour = unpacked(image.words[p]);
      values[0][0] = colour.lightness;
      values[0][1] = colour.a;
      values[0][2] = colour.b;
      values[0][3] = 1;
      image.words[p] = kNoChoice;
    }
    sum_by_label(root, values, [&](int to, const int (&sums)[kColourFields + 1]) {
      const int lane = threadIdx.x % kWarpSize;
      int sum = 0;
#pragma unroll
      for (int f = 0; f < kColourFields; ++f) sum = f == lane ? sums[f] : sum;
      if (lane < kColourFields) {
        atomicAdd(&image.colour_sums[int64_t{to} * kColourFields + lane],
                  static_cast<Word>(int64_t{sum}));
      }
      if (lane == kColourFields) atomicAdd(&image.sizes[to], sums[kColourFields]);
    });
  });
}

// Offers each of two neighbours to the other where that is small. Whether any was.
__device__ bool offer(const Image& image, int one, int other) {
  const bool one_is_small = image.is_small(image.sizes[one]);
  const bool other_is_small = image.is_small(image.sizes[other]);
  if (!one_is_small && !other_is_small) return false;
  const slic::Colour a = image.mean_of(one), b = image.mean_of(other);
  const int lightness = a.lightness - b.lightness, da = a.a - b.a, db = a.b - b.b;
  const Word contrast = static_cast<Word>(lightness * lightness + da * da + db * db) << 32;
  const auto choose = [&](int piece, int neighbour) {
    const Word choice = contrast | static_cast<unsigned>(neighbour);
    // Most borders come late, and an atomic that changes nothing is dear.
    const volatile Word* best = &image.words[piece];
    if (choice < *best) atomicMin(&image.words[piece], choice);
  };
  if (one_is_small) choose(one, other);
  if (other_is_small) choose(other, one);
  return true;
}

__global__ void __launch_bounds__(kThreads) choose_kernel(SlicWork work, int round) {
  const Image image(work);
  // Blocks of this round write to it too, but only where all of them go on.
  if (*image.joined < round - 1) return;
  bool found = false;
  image.for_each_pixel([&](int p, bool inside) {
    if (!inside) return;
    const int named = image.roots[p], root = find_root(image.roots, named);
    if (root != named) image.roots[p] = root;
    const auto meet = [&](int neighbour) {
      const int named_there = image.roots[neighbour];
      if (named_there == named) return;
      const int other = find_root(image.roots, named_there);
      if (other != root && offer(image, root, other)) found = true;
    };
    if ((p + 1) % image.width != 0) meet(p + 1);
    if (p < image.pixels - image.width) meet(p + image.width);
  });
  if (found) *image.joined = round;
}

// A pixel has a size where it was a root before this round.
__global__ void __launch_bounds__(kThreads) unite_pieces_kernel(SlicWork work, int round) {
  const Image image(work);
  if (*image.joined < round) return;
  image.for_each_pixel([&](int p, bool inside) {
    const int size = inside ? image.sizes[p] : 0;
    if (size == 0 || !image.is_small(size)) return;
    unite(image.roots, p, static_cast<int>(image.words[p] & 0xffffffffu));
  });
}

__global__ void __launch_bounds__(kThreads) gather_kernel(SlicWork work, int round) {
  const Image image(work);
  if (*image.joined < round) return;
  image.for_each_pixel([&](int p, bool inside) {
    const int size = inside ? image.sizes[p] : 0;
    if (size == 0) return;
    image.words[p] = kNoChoice;
    const int root = find_root(image.roots, p);
    if (root == p) return;
    image.roots[p] = root;
    image.sizes[p] = 0;
    atomicAdd(&image.sizes[root], size);
    for (int f = 0; f < kColourFields; ++f) {
      atomicAdd(&image.colour_sums[int64_t{root} * kColourFields + f],
                image.colour_sums[int64_t{p} * kColourFields + f]);
    }
  });
}

}  // namespace

void join_pieces(const SlicWork& work, Stream stream) {
  const int64_t most = std::max<int64_t>(1, kBlocks / work.batch);
  const int64_t blocks = std::min<int64_t>(blocks_for(work.pixels, kThreads), most);
  const auto grid = static_cast<unsigned>(blocks * work.batch);
  launch(kName, start_kernel, grid, kThreads, 0, stream, work);
  launch(kName, unite_pixels_kernel, grid, kThreads, 0, stream, work);
  launch(kName, flatten_kernel, grid, kThreads, 0, stream, work);
  launch(kName, measure_kernel, grid, kThreads, 0, stream, work);
  // After a round, small pieces have at least twice the size `least` of before.
  int round = 1;
  for (int64_t least = 1; 2 * least * work.centres < work.pixels; least *= 2, ++round) {
    launch(kName, choose_kernel, grid, kThreads, 0, stream, work, round);
    launch(kName, unite_pieces_kernel, grid, kThreads, 0, stream, work, round);
    launch(kName, gather_kernel, grid, kThreads, 0, stream, work, round);
  }
}

}  // namespace wsol::cuda::superpixels
