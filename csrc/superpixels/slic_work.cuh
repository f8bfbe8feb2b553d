// What the CUDA kernels of slic share: the sizes, the scratch memory, and sums by label.
#pragma once

#include <algorithm>

#include "core/cuda.h"
#include "core/scratch.h"
#include "superpixels/slic.h"

namespace wsol::cuda::superpixels {

constexpr const char* kName = "slic";
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kChunk = 16 * kThreads;  // elements that a block numbers

// 64 bits a pixel: its colour as three int16, and, once colours have been summed, other numbers.
using Word = unsigned long long;

struct alignas(16) Centre {
  int y, x;  // in 1/16 pixel
  int16_t lightness, a, b, unused;
};

constexpr int kFields = 6;        // sums of a cluster: y, x, lightness, a, b, number of pixels
constexpr int kColourFields = 3;  // sums of a piece: lightness, a, b

// Sizes, and the scratch memory cut up: for a pixel 8 bytes and 32 a layer, for a centre 4 and 64 a
// layer.
struct SlicWork {
  int64_t batch;
  int layers, channels;
  int height, width, pixels;
  int rows, columns, centres;  // of the grid
  int groups;                  // of 32 centres that follow each other
  int chunks;                  // of pixels
  int reach_y, reach_x;
  int64_t weight;
  int least_contrast;     // of SLICO, else 0
  const int* start;       // (B, pixels): labels to start with, -1 outside of the mask; or none
  const int64_t* scales;  // (B, 3), with `start`: each image's reach, weight, pixels

  int* labels;  // (B, pixels): by the end the result
  Word* words;  // (layers, B, pixels): colours; the first layer's: then each piece's choice; then
                // new labels
  // For the clusters.
  Centre* centre;  // (layers, B, centres)
  int4* boxes;     // (B, groups): least and largest y, least and largest x of the centres' pixels
  Word* sums;      // (layers, B, centres, kFields), negative ones in two's complement
  int* contrasts;  // (B, centres): of SLICO, the largest squared difference of colours so far
  int* changed;    // (B,): the last iteration that changed a label
  // For the pieces.
  int* roots;             // (B, pixels): union-find; -1 outside of the mask
  int* sizes;             // (B, pixels): pixels of a root's piece; else 0
  Word* colour_sums;      // (layers, B, pixels, kColourFields), by root
  int* joined;            // (B,): the last round that found a small piece that touches another
  int* chunk_counts;      // (B, chunks)
  unsigned char* zeroed;  // where sums, changed and joined lie: they start as 0
  int64_t zeroed_bytes, bytes;

  SlicWork(const TensorView& memory, int64_t images, int64_t h, int64_t w, int64_t centre_count,
           int64_t layer_count)
      : batch(images),
        layers(static_cast<int>(layer_count)),
        height(static_cast<int>(h)),
        width(static_cast<int>(w)),
        pixels(static_cast<int>(h * w)),
        centres(static_cast<int>(centre_count)),
        groups(static_cast<int>((centre_count + kWarpSize - 1) / kWarpSize)),
        chunks(static_cast<int>((h * w + kChunk - 1) / kChunk)) {
    ScratchParts parts(memory);
    // Those of pixels first, so that they begin with a sector.
    parts.take(words, layers * batch * pixels);
    parts.take(colour_sums, layers * batch * kColourFields * pixels);
    parts.take(roots, batch * pixels);
    parts.take(sizes, batch * pixels);
    parts.take(centre, layers * batch * centres);
    parts.take(boxes, batch * groups);
    parts.take(contrasts, batch * centres);
    parts.take(chunk_counts, batch * chunks);
    const int64_t before = parts.bytes();
    parts.take(sums, layers * batch * kFields * centres);
    zeroed = reinterpret_cast<unsigned char*>(sums);
    parts.take(changed, batch);
    parts.take(joined, batch);
    zeroed_bytes = parts.bytes() - before;
    bytes = parts.bytes();
  }
};

// slic_clusters.cu: labels become those of the nearest centres.
void cluster(const Slic& args, const SlicWork& work, Stream stream);
// connected_pieces.cu: roots become those of the pieces, joined.
void join_pieces(const SlicWork& work, Stream stream);

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

struct DeviceScale {
  int reach_y, reach_x;
  int64_t weight, pixels;
};

__device__ inline DeviceScale scale_of(const SlicWork& work, int64_t image) {
  if (work.scales == nullptr) return {work.reach_y, work.reach_x, work.weight, work.pixels};
  const int64_t* own = work.scales + 3 * image;
  const auto reach = static_cast<int>(own[0]);
  return {reach, reach, own[1], own[2]};
}

__device__ inline Word packed(const slic::Colour& colour) {
  const auto bits = [](int value) { return static_cast<Word>(static_cast<uint16_t>(value)); };
  return bits(colour.lightness) | bits(colour.a) << 16 | bits(colour.b) << 32;
}

__device__ inline slic::Colour unpacked(Word word) {
  const auto value = [&](int bit) { return static_cast<int16_t>(word >> bit); };
  return {value(0), value(16), value(32)};
}

// Adds up the values of a warp's pixels by label: calls add(label, sums) for each label but -1,
// lanes all together, with the same sums in each.
template <int kPixels, int kFields, typename Add>
__device__ void sum_by_label(int (&labels)[kPixels], const int (&values)[kPixels][kFields],
                             const Add& add) {
  for (;;) {
    int next = -1;
#pragma unroll
    for (int j = 0; j < kPixels; ++j) next = max(next, labels[j]);
    const unsigned waiting = __ballot_sync(kFullWarp, next >= 0);
    if (waiting == 0) return;
    const int chosen = __shfl_sync(kFullWarp, next, __ffs(static_cast<int>(waiting)) - 1);
    int sums[kFields] = {};
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const bool mine = labels[j] == chosen;
      if (mine) labels[j] = -1;
#pragma unroll
      for (int f = 0; f < kFields; ++f) sums[f] += mine ? values[j][f] : 0;
    }
#pragma unroll
    for (int f = 0; f < kFields; ++f) sums[f] = __reduce_add_sync(kFullWarp, sums[f]);
    add(chosen, sums);
  }
}

#endif  // __CUDACC__ || WSOL_EMULATOR

}  // namespace wsol::cuda::superpixels
