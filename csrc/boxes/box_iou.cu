// CUDA: a thread owns one out[b, n, m], threads of a warp neighbours in m. Nothing in shared
// memory: boxes come from the caches. Must write 4 or 8 bytes a pair; limited by that bandwidth.
#include "boxes/box_iou.h"
#include "boxes/iou.h"
#include "core/cuda.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void box_iou_kernel(const T* a_boxes, const T* b_boxes, int64_t a_stride,
                               int64_t b_stride, int64_t rows, int64_t columns, int64_t total,
                               T extra, T* out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / columns;  // of all batches
  const int64_t batch = row / rows;
  const BoxOf<T> a = box_at(a_boxes + batch * a_stride + 4 * (row % rows));
  const BoxOf<T> b = box_at(b_boxes + batch * b_stride + 4 * (index % columns));
  out[index] = iou_of(a, area_of(a, extra), b, extra);
}

}  // namespace

void box_iou(const BoxIou& args, Stream stream) {
  const int64_t rows = rows_of(args.a), columns = rows_of(args.b);
  const int64_t total = batch_of(args.out) * rows * columns;
  with_float_or_double("box_iou", args.a.dtype, [&]<typename T>(ElementTag<T>) {
    launch("box_iou", box_iou_kernel<T>, blocks_for(total, kThreads), kThreads, 0, stream,
           args.a.as<T>(), args.b.as<T>(), batch_stride(args.a), batch_stride(args.b), rows,
           columns, total, args.inclusive ? T(1) : T(0), args.out.as<T>());
  });
}

}  // namespace wsol::cuda
