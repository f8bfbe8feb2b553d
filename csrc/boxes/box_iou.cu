// CUDA: a thread owns a column of some rows of out[b]: it keeps its box of b and meets each row's
// box of a with it. Threads of a warp are neighbours in m. Nothing in shared memory. Must write 4
// or 8 bytes a pair, and reads half of that again from the caches; limited by that bandwidth.
#include "boxes/box_iou.h"
#include "boxes/iou.h"
#include "core/cuda.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;
template <typename T>
constexpr int kRowsAThread = 2 * sizeof(T);  // so many that boxes are half of what is written

// The rows and columns of a batch's pairs, and how many blocks they are divided among.
struct Pairs {
  int64_t rows, columns;
  unsigned row_tiles, column_tiles;
};

template <typename T, bool kAligned>
__device__ BoxOf<T> load_box(const T* corners) {
  if constexpr (!kAligned) {
    return box_at(corners);
  } else if constexpr (sizeof(T) == 4) {
    const float4 all = *reinterpret_cast<const float4*>(corners);
    return {all.x, all.y, all.z, all.w};
  } else {
    const double2 low = reinterpret_cast<const double2*>(corners)[0];
    const double2 high = reinterpret_cast<const double2*>(corners)[1];
    return {low.x, low.y, high.x, high.y};
  }
}

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    box_iou_kernel(const T* a_boxes, const T* b_boxes, int64_t a_stride, int64_t b_stride,
                   Pairs pairs, T extra, T* out) {
  const unsigned column_tile = blockIdx.x % pairs.column_tiles;
  const unsigned tile = blockIdx.x / pairs.column_tiles;
  const int64_t batch = tile / pairs.row_tiles, row_tile = tile % pairs.row_tiles;
  const int64_t column = static_cast<int64_t>(column_tile) * blockDim.x + threadIdx.x;
  if (column >= pairs.columns) return;
  const BoxOf<T> b = load_box<T, kAligned>(b_boxes + batch * b_stride + 4 * column);
  const unsigned tile_rows = kRowsAThread<T> * blockDim.y;
  const int64_t first = row_tile * tile_rows + threadIdx.y;
  const T* a = a_boxes + batch * a_stride + 4 * first;
  T* pair = out + (batch * pairs.rows + first) * pairs.columns + column;
  const auto rows = static_cast<int>(min(pairs.rows - first, static_cast<int64_t>(tile_rows)));
  for (int row = 0; row < rows; row += blockDim.y) {
    const BoxOf<T> box = load_box<T, kAligned>(a);
    *pair = iou_of(box, area_of(box, extra), b, extra);
    a += 4 * blockDim.y;
    pair += blockDim.y * pairs.columns;
  }
}

}  // namespace

void box_iou(const BoxIou& args, Stream stream) {
  const int64_t rows = rows_of(args.a), columns = rows_of(args.b);
  // As many threads a row as it has columns, if they are few: a power of two.
  unsigned width = kThreads;
  while (width / 2 >= columns) width /= 2;
  const dim3 block(width, kThreads / width);
  const auto is_aligned = [](const TensorView& boxes) {
    return reinterpret_cast<uintptr_t>(boxes.data) % 16 == 0;
  };
  with_float_or_double("box_iou", args.a.dtype, [&]<typename T>(ElementTag<T>) {
    const Pairs pairs{rows, columns, blocks_for(rows, kRowsAThread<T> * static_cast<int>(block.y)),
                      blocks_for(columns, static_cast<int>(width))};
    const auto blocks =
        static_cast<unsigned>(batch_of(args.out) * pairs.row_tiles * pairs.column_tiles);
    const auto kernel = is_aligned(args.a) && is_aligned(args.b) ? box_iou_kernel<T, true>
                                                                 : box_iou_kernel<T, false>;
    launch("box_iou", kernel, blocks, block, 0, stream, args.a.as<T>(), args.b.as<T>(),
           batch_stride(args.a), batch_stride(args.b), pairs, args.inclusive ? T(1) : T(0),
           args.out.as<T>());
  });
}

}  // namespace wsol::cuda
