// CPU: one task a range of rows (a box of `a` against all of `b`). Limited by writing the result.
#include "boxes/box_iou.h"

#include <algorithm>

#include "core/element_types.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kGrain = 4096;  // pairs a task, about

template <typename T>
WSOL_MULTIVERSION void iou_row(const T* a, const T* boxes, int64_t count, T extra, T* out) {
  const auto side = [extra](T low, T high) {
    const T length = high - low + extra;
    return length > 0 ? length : T(0);
  };
  const T area = side(a[0], a[2]) * side(a[1], a[3]);
  for (int64_t j = 0; j < count; ++j) {
    const T* b = boxes + 4 * j;
    const T shared = side(a[0] > b[0] ? a[0] : b[0], a[2] < b[2] ? a[2] : b[2]) *
                     side(a[1] > b[1] ? a[1] : b[1], a[3] < b[3] ? a[3] : b[3]);
    const T joined = area + side(b[0], b[2]) * side(b[1], b[3]) - shared;
    out[j] = joined > 0 ? shared / joined : T(0);
  }
}

}  // namespace

void box_iou(const BoxIou& args, int threads) {
  const int64_t rows = args.a.size(1), columns = args.b.size(1);
  const auto run = [&]<typename T>(ElementTag<T>) {
    parallel_for(args.a.size(0) * rows, std::max<int64_t>(1, kGrain / columns), threads,
                 [&](int64_t begin, int64_t end) {
                   for (int64_t row = begin; row < end; ++row) {
                     iou_row<T>(args.a.as<T>() + 4 * row,
                                args.b.as<T>() + 4 * (row / rows) * columns, columns,
                                args.inclusive ? T(1) : T(0), args.out.as<T>() + row * columns);
                   }
                 });
  };
  if (args.a.dtype == DType::kFloat64) {
    run(ElementTag<double>{});
  } else {
    run(ElementTag<float>{});
  }
}

}  // namespace wsol::cpu
