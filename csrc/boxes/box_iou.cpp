// CPU: one task a range of rows (a box of `a` against all of `b`). `b` is turned once, so that a
// row's pairs lie side by side in vectors. Limited by the division and by writing the result.
#include "boxes/box_iou.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "boxes/iou.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kGrain = 4096;  // pairs a task, about
constexpr int kBlock = 16;        // pairs at once: in smaller rows nothing would be in vectors

// Boxes as the columns x0, y0, x1, y1 and area, in whole blocks.
template <typename T>
struct BoxColumns {
  int64_t stride = 0;
  std::vector<T> values;

  void read(const T* boxes, int64_t count, T extra) {
    stride = (count + kBlock - 1) / kBlock * kBlock;
    values.resize(5 * stride);
    T* out = values.data();
    for (int64_t j = 0; j < count; ++j) {
      const T* box = boxes + 4 * j;
      for (int i = 0; i < 4; ++i) out[i * stride + j] = box[i];
      out[4 * stride + j] = area_of(box_at(box), extra);
    }
  }
};

template <typename T>
T larger(T a, T b) {
  return a > b ? a : b;
}
template <typename T>
T smaller(T a, T b) {
  return a < b ? a : b;
}

// The block of pairs of `a` with the columns from `b` on: iou_of, in which every comparison is a
// maximum or a minimum, because GCC vectorizes no jumps.
template <typename T>
inline void iou_block(const BoxOf<T>& a, T area_a, const T* b, int64_t stride, T extra, T* out) {
  const T *x0 = b, *y0 = b + stride, *x1 = b + 2 * stride, *y1 = b + 3 * stride;
  const T* area_b = b + 4 * stride;
#pragma omp simd
  for (int j = 0; j < kBlock; ++j) {
    const T width = smaller(a.x1, x1[j]) - larger(a.x0, x0[j]) + extra;
    const T height = smaller(a.y1, y1[j]) - larger(a.y0, y0[j]) + extra;
    const T shared = larger(width, T(0)) * larger(height, T(0));
    const T joined = area_a + area_b[j] - shared;
    out[j] = larger(shared / joined, T(0));  // of two empty boxes 0 / 0, which is not larger
  }
}

template <typename T>
WSOL_MULTIVERSION void iou_rows(const T* a, int64_t rows, const BoxColumns<T>& b, int64_t columns,
                                T extra, T* out) {
  const int64_t whole = columns / kBlock * kBlock;
  const T* values = b.values.data();
  const int64_t stride = b.stride;
  for (int64_t row = 0; row < rows; ++row, a += 4, out += columns) {
    const BoxOf<T> box = box_at(a);
    const T area = area_of(box, extra);
    for (int64_t j = 0; j < whole; j += kBlock) {
      iou_block(box, area, values + j, stride, extra, out + j);
    }
    if (whole < columns) {
      T last[kBlock];
      iou_block(box, area, values + whole, stride, extra, last);
      std::copy_n(last, columns - whole, out + whole);
    }
  }
}

}  // namespace

void box_iou(const BoxIou& args, int threads) {
  int64_t rows = rows_of(args.a), columns = rows_of(args.b);
  with_float_or_double("box_iou", args.a.dtype, [&]<typename T>(ElementTag<T>) {
    const T extra = args.inclusive ? T(1) : T(0);
    const T *a = args.a.as<T>(), *b = args.b.as<T>();
    int64_t a_stride = batch_stride(args.a), b_stride = batch_stride(args.b);
    if (columns == 1) {  // the same numbers in the same order, as one row
      std::swap(a, b);
      std::swap(a_stride, b_stride);
      std::swap(rows, columns);
    }
    parallel_for(batch_of(args.out) * rows, std::max<int64_t>(1, kGrain / columns), threads,
                 [&](int64_t begin, int64_t end) {
                   BoxColumns<T> turned;
                   while (begin < end) {
                     const int64_t batch = begin / rows, row = begin % rows;
                     const int64_t count = std::min(end - begin, rows - row);
                     turned.read(b + batch * b_stride, columns, extra);
                     iou_rows<T>(a + batch * a_stride + 4 * row, count, turned, columns, extra,
                                 args.out.as<T>() + begin * columns);
                     begin += count;
                   }
                 });
  });
}

}  // namespace wsol::cpu
