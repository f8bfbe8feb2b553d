// CUDA: a thread owns one out[b, n, m], threads of a warp neighbours in m. Nothing in shared
// memory: boxes come from the caches. Must write 4 or 8 bytes a pair; limited by that bandwidth.
#define WSOL_WITH_CUDA
#include "boxes/box_iou.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__device__ T side(T low, T high, T extra) {
  const T length = high - low + extra;
  return length > 0 ? length : T(0);
}

template <typename T>
__global__ void box_iou_kernel(const T* a_boxes, const T* b_boxes, int64_t rows, int64_t columns,
                               int64_t total, T extra, T* out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / columns;  // of all batches
  const T* a = a_boxes + 4 * row;
  const T* b = b_boxes + 4 * (row / rows * columns + index % columns);
  const T shared =
      side(max(a[0], b[0]), min(a[2], b[2]), extra) * side(max(a[1], b[1]), min(a[3], b[3]), extra);
  const T joined = side(a[0], a[2], extra) * side(a[1], a[3], extra) +
                   side(b[0], b[2], extra) * side(b[1], b[3], extra) - shared;
  out[index] = joined > 0 ? shared / joined : T(0);
}

}  // namespace

void box_iou(const BoxIou& args, Stream stream) {
  const int64_t rows = args.a.size(1), columns = args.b.size(1);
  const int64_t total = args.a.size(0) * rows * columns;
  const auto run = [&]<typename T>(ElementTag<T>) {
    launch("box_iou", box_iou_kernel<T>, blocks_for(total, kThreads), kThreads, 0, stream,
           args.a.as<T>(), args.b.as<T>(), rows, columns, total, args.inclusive ? T(1) : T(0),
           args.out.as<T>());
  };
  if (args.a.dtype == DType::kFloat64) {
    run(ElementTag<double>{});
  } else {
    run(ElementTag<float>{});
  }
}

}  // namespace wsol::cuda
