// CPU: one task a range of rows; a row's bits and units lie in two arrays. Limited by the sums, one
// for each bit of the crossing value.
#include "attention/adaptive_token_mask.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <vector>

#include "core/element_types.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kGrain = 1024;  // tokens a task, about

struct Row {
  std::vector<int64_t> bits, units;
};

// The sum of the values no smaller than that of the bits `cut`.
inline int64_t sum_from(const Row& row, int64_t cut) {
  const int64_t* bits = row.bits.data();
  const int64_t* units = row.units.data();
  const int64_t count = static_cast<int64_t>(row.bits.size());
  int64_t sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += bits[j] >= cut ? units[j] : 0;
  return sum;
}

// Returns whether the row is a valid one.
template <typename T, typename A>
WSOL_MULTIVERSION bool mask_row(const T* attention, double mass, int unit_bits, Row& row,
                                uint8_t* keep) {
  using Value = ValueBits<A>;
  const int64_t count = static_cast<int64_t>(row.bits.size());
  int64_t smallest = std::numeric_limits<int64_t>::max(), largest = 0;
  for (int64_t j = 0; j < count; ++j) {
    row.bits[j] = Value::of(static_cast<A>(attention[j]));
    smallest = std::min(smallest, row.bits[j]);
    largest = std::max(largest, row.bits[j]);
  }
  if (!Value::are_valid(smallest, largest)) return false;

  for (int64_t j = 0; j < count; ++j) {
    row.units[j] = Value::units(row.bits[j], largest, unit_bits);
  }
  const int64_t limit = limit_of(sum_from(row, 0), mass);
  int64_t crossing = 0, sum_above = 0;
  for (int bit = Value::kHighest; bit >= 0; --bit) {
    const int64_t higher = crossing | int64_t{1} << bit;
    const int64_t sum = sum_from(row, higher);
    if (sum >= limit) {
      crossing = higher;
    } else {
      sum_above = sum;  // the last of these cuts is crossing + 1
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    keep[j] = row.bits[j] > crossing;
    if (row.bits[j] == crossing) {
      sum_above += row.units[j];
      keep[j] = sum_above < limit;
    }
  }
  return true;
}

}  // namespace

void adaptive_token_mask(const AdaptiveTokenMask& args, int threads) {
  const int64_t rows = args.attention.size(0), count = args.attention.size(1);
  const int unit_bits = unit_bits_for(count);
  with_floating_type("adaptive_token_mask", args.attention.dtype, [&]<typename T>(ElementTag<T>) {
    parallel_for(
        rows, std::max<int64_t>(1, kGrain / count), threads, [&](int64_t begin, int64_t end) {
          Row row{std::vector<int64_t>(count), std::vector<int64_t>(count)};
          for (int64_t i = begin; i < end; ++i) {
            if (!mask_row<T, Accumulator<T>>(args.attention.as<T>() + i * args.attention.stride(0),
                                             args.mass, unit_bits, row,
                                             args.keep.as<uint8_t>() + i * count)) {
              throw std::invalid_argument(
                  "adaptive_token_mask: attention has a row with a value that is negative, "
                  "infinite or NaN, or of zeros alone; its values should be nonnegative "
                  "and have a positive, finite sum");
            }
          }
        });
  });
}

}  // namespace wsol::cpu
