// CPU: one task a range of rows (a box of `a` against all of `b`). Limited by writing the result.
#include "boxes/box_iou.h"

#include <algorithm>

#include "boxes/iou.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kGrain = 4096;  // pairs a task, about

template <typename T>
WSOL_MULTIVERSION void iou_row(const T* a, const T* boxes, int64_t count, T extra, T* out) {
  const T area = area_of(box_at(a), extra);
  for (int64_t j = 0; j < count; ++j) {
    out[j] = iou_of(box_at(a), area, box_at(boxes + 4 * j), extra);
  }
}

}  // namespace

void box_iou(const BoxIou& args, int threads) {
  const int64_t rows = args.a.size(1), columns = args.b.size(1);
  with_float_or_double("box_iou", args.a.dtype, [&]<typename T>(ElementTag<T>) {
    parallel_for(args.a.size(0) * rows, std::max<int64_t>(1, kGrain / columns), threads,
                 [&](int64_t begin, int64_t end) {
                   for (int64_t row = begin; row < end; ++row) {
                     iou_row<T>(args.a.as<T>() + 4 * row,
                                args.b.as<T>() + 4 * (row / rows) * columns, columns,
                                args.inclusive ? T(1) : T(0), args.out.as<T>() + row * columns);
                   }
                 });
  });
}

}  // namespace wsol::cpu
