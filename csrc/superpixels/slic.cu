// CUDA: the steps of slic for the whole batch, and step 5, consecutive labels. Centres lie in
// slic_clusters.cu, pieces in connected_pieces.cu; nothing waits for the device. A block owns 4,096
// elements, pixels that may be roots or centres, counts those that are a label, and numbers them
// from where the blocks before it end. In shared memory lies a count for each warp. Limited by
// latency, then by bandwidth.
#include "core/union_find.cuh"
#include "superpixels/slic_work.cuh"

namespace wsol::cuda::superpixels {
namespace {

// What may become a label: a pixel, where it is the root of a piece, or a centre that has pixels.
template <bool kConnect>
struct Elements {
  int64_t image;
  int count, chunks, chunk;

  __device__ explicit Elements(const SlicWork& work)
      : count(kConnect ? work.pixels : work.centres) {
    chunks = (count - 1) / kChunk + 1;
    image = blockIdx.x / static_cast<unsigned>(chunks);
    chunk = blockIdx.x % static_cast<unsigned>(chunks);
  }

  __device__ bool is_label(const SlicWork& work, unsigned element) const {
    if (element >= static_cast<unsigned>(count)) return false;
    if constexpr (kConnect) {
      return work.roots[image * count + element] == static_cast<int>(element);
    } else {
      return work.sums[(image * count + element + 1) * kFields - 1] != 0;
    }
  }

  // A warp's part of the chunk: visit(element) for each.
  template <typename Visit>
  __device__ void for_each(const Visit& visit) const {
    const unsigned warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    const unsigned first = static_cast<unsigned>(chunk) * kChunk + warp * (kChunk / kWarps) + lane;
#pragma unroll 4  // more would take registers
    for (unsigned i = 0; i < kChunk / kWarps; i += kWarpSize) visit(first + i);
  }
};

template <bool kConnect>
__global__ void __launch_bounds__(kThreads) count_kernel(SlicWork work) {
  const Elements<kConnect> elements(work);
  int count = 0;
  elements.for_each([&](unsigned element) { count += elements.is_label(work, element); });
  count = block_sum(count, reinterpret_cast<int*>(dynamic_shared()));
  if (threadIdx.x == 0) work.chunk_counts[blockIdx.x] = count;
}

template <bool kConnect>
__global__ void __launch_bounds__(kThreads) number_kernel(SlicWork work) {
  auto* of_warps = reinterpret_cast<int*>(dynamic_shared());
  const Elements<kConnect> elements(work);
  int before = 0;
  for (int i = threadIdx.x; i < elements.chunk; i += kThreads) {
    before += work.chunk_counts[elements.image * elements.chunks + i];
  }
  int next = block_sum(before, of_warps);
  unsigned found = 0;  // a bit for each of the thread's elements
  elements.for_each([&](unsigned element) {
    found = found << 1 | static_cast<unsigned>(elements.is_label(work, element));
  });
  const int own = __popc(found);
  found <<= 32 - kChunk / kThreads;
  block_sum(own, of_warps);
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  for (int i = 0; i < warp; ++i) next += of_warps[i];
  elements.for_each([&](unsigned element) {
    const bool is_label = found >> 31 != 0;
    found <<= 1;
    const unsigned labels = __ballot_sync(kFullWarp, is_label);
    if (is_label) {
      work.words[elements.image * work.pixels + element] =
          static_cast<Word>(next + __popc(labels & ((1u << lane) - 1)));
    }
    next += __popc(labels);
  });
}

template <bool kConnect>
__global__ void __launch_bounds__(kThreads) label_kernel(SlicWork work) {
  const int64_t pixel = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (pixel >= work.batch * work.pixels) return;
  const int64_t first = pixel / work.pixels * work.pixels;  // of the image
  int element = kConnect ? work.roots[pixel] : work.labels[pixel];
  if (kConnect && element >= 0) element = find_root(work.roots + first, element);
  work.labels[pixel] = element < 0 ? -1 : static_cast<int>(work.words[first + element]);
}

template <bool kConnect>
void make_consecutive(const SlicWork& work, Stream stream) {
  const int64_t elements = kConnect ? work.pixels : work.centres;
  const auto chunks = static_cast<unsigned>(work.batch * ((elements - 1) / kChunk + 1));
  constexpr size_t kShared = kWarps * sizeof(int);
  launch(kName, count_kernel<kConnect>, chunks, kThreads, kShared, stream, work);
  launch(kName, number_kernel<kConnect>, chunks, kThreads, kShared, stream, work);
  launch(kName, label_kernel<kConnect>, blocks_for(work.batch * work.pixels, kThreads), kThreads, 0,
         stream, work);
}

}  // namespace
}  // namespace wsol::cuda::superpixels

namespace wsol::cuda {

int64_t slic_scratch_bytes(int64_t batch, int64_t height, int64_t width, int64_t centres,
                           int64_t layers) {
  return superpixels::SlicWork({}, batch, height, width, centres, layers).bytes;
}

void slic(const Slic& args, Stream stream) {
  superpixels::SlicWork work(args.scratch, args.images.size(0), args.images.size(2),
                             args.images.size(3), args.rows * args.columns, slic::layers_of(args));
  work.labels = args.labels.as<int>();
  work.rows = static_cast<int>(args.rows);
  work.columns = static_cast<int>(args.columns);
  work.reach_y = static_cast<int>(args.reach_y);
  work.reach_x = static_cast<int>(args.reach_x);
  work.weight = args.weight;
  work.channels = static_cast<int>(args.images.size(1));
  work.least_contrast = static_cast<int>(args.least_contrast);
  work.start = args.start.as<int>();
  work.scales = args.scales.as<int64_t>();
  check(superpixels::kName,
        cudaMemsetAsync(work.zeroed, 0, work.zeroed_bytes, reinterpret_cast<cudaStream_t>(stream)));
  superpixels::cluster(args, work, stream);
  if (args.connect) {
    superpixels::join_pieces(work, stream);
    superpixels::make_consecutive<true>(work, stream);
  } else {
    superpixels::make_consecutive<false>(work, stream);
  }
}

}  // namespace wsol::cuda
