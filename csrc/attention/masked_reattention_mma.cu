// The kernels of masked_reattention for half types on tensor cores, widths up to 128 in whole
// 16-byte pieces.
//
// A block owns 16 rows of one (image, head) for each of its warps: queries, or, for the keys'
// gradients, kept keys. It passes over the other side in tiles of kTile columns, which all its
// warps read from shared memory. While one tile is computed with, the next one is on its way.
#include "attention/masked_reattention_mma.cuh"

namespace wsol::cuda::reattention {
namespace {

// Columns of a tile: fewer where the width takes the registers, and where two products' sums lie
// beside each other and two tiles in shared memory.
template <int kWidth>
constexpr int kForwardTile = kWidth <= 64 ? 64 : 32;
template <int kWidth>
constexpr int kBackwardTile = kWidth <= 64 ? 32 : 16;
// Whether the backward has registers left for its rows; the forward has its tops there.
template <int kWidth>
constexpr bool kHoldsRows = kWidth <= 64;

// Warps of a block at most: as many as registers, or shared memory, allow, of a wide forward two
// blocks; of grad_key_value as many as half of 197 tokens take.
template <int kWidth>
constexpr int kForwardWarps = kWidth <= 64 ? 16 : 6;
template <int kWidth>
constexpr int kGradQueryWarps = kWidth <= 64 ? 16 : 8;
template <int kWidth>
constexpr int kGradKeyValueWarps = kWidth <= 64 ? 7 : 4;

// What grad_key_value knows of the queries that are its columns. Of those past the end all is zero,
// and so are their rows: they add nothing.
template <int kTile>
struct Columns {
  int top[kTile];
  float log_sum[kTile], delta[kTile], top_grad[kTile];
};

// Where what is read of a head's columns begins, in shared memory: registers are few.
template <typename T>
struct alignas(16) Sources {
  const T *first, *second;  // keys and values, or queries and the gradients of their outputs
};

// Of shared memory: what a block has once, and what each of its warps has.
template <typename T, int kWidth>
constexpr size_t forward_shared_bytes(int warps) {
  return (2 * kForwardTile<kWidth> * kPitch<kWidth> + warps * kWarpSpan<kWidth>)*sizeof(T) +
         kWidth * sizeof(float) + sizeof(Sources<T>);
}

template <typename T, int kWidth>
constexpr size_t gradient_shared_bytes(int warps) {
  return (4 * kBackwardTile<kWidth> * kPitch<kWidth> + 2 * warps * kWarpSpan<kWidth>)*sizeof(T) +
         sizeof(Sources<T>);
}

template <typename T, int kWidth>
constexpr size_t grad_query_shared_bytes(int warps) {
  return gradient_shared_bytes<T, kWidth>(warps) + warps * kRowsPerWarp * sizeof(float2);
}

template <typename T, int kWidth>
constexpr size_t grad_key_value_shared_bytes(int warps) {
  return gradient_shared_bytes<T, kWidth>(warps) + 2 * sizeof(Columns<kBackwardTile<kWidth>>) +
         4 * sizeof(const int*) + kWidth * sizeof(float);
}

// Shows the logits of a tile that begins at `first` in the order of tokens to the tops of this
// lane's two rows, which name places in that order: kept tokens, or dropped ones, are in it as
// they are by themselves.
template <int kTile>
__device__ void take_logits(Top<float> (&best)[2], const Sums<kTile>& logits, int first) {
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) best[i / 2].take_later(logits[n][i], first + column_of(n, i));
  }
}

// The token of the larger of two tops, which name places in `order`.
__device__ inline int token_of_larger(Top<float> kept, const Top<float>& dropped,
                                      const int* order) {
  if (kept.logit == dropped.logit && kept.token >= 0) {
    return min(order[kept.token], order[dropped.token]);
  }
  kept.take_later(dropped.logit, dropped.token);
  return kept.token < 0 ? -1 : order[kept.token];
}

// Joins the parts of the warp's rows, whose queries lie in `rows`, and writes them.
template <typename T, int kWidth>
__device__ void write_forward(const Inputs<T>& in, const Sums<kWidth>& sum,
                              const float (&largest)[2], const float (&weight_sum)[2],
                              Top<float> (&best)[2], Top<float> (&best_dropped)[2], T* rows,
                              const float* mean_value, const HeadRows<T>& out_rows, float* log_sum,
                              int* top) {
  const Place place(in.tokens, rows_of_block(), block_index_again());
  const Head<T> head(in, place.head);
  const int first_row = first_row_of_warp(place.first);
  Parts<float> parts[2];
  int dropped_token[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    best[half].template take_from_group<4>();
    best_dropped[half].template take_from_group<4>();
    const int row = row_of(2 * half), token = min(first_row + row, in.tokens - 1);
    const bool present = first_row + row < in.tokens, is_kept = head.keep[token];
    dropped_token[half] = present && !is_kept ? token : -1;
    const int lane = lane_of_warp() % 4;
    constexpr int kPiece = 16 / sizeof(T);
    const float own =
        in.base_2_scale *
        group_sum<4>(is_kept ? 0.0f
                             : partial_dot<kPiece>(rows + row * kPitch<kWidth>, head.key[token],
                                                   in.width, lane, 4));
    Top<float> largest_of_all = best[half];
    largest_of_all.take_later(best_dropped[half].logit, -1);
    parts[half] =
        join(natural(largest[half]), group_sum<4>(weight_sum[half]),
             is_kept ? -INFINITY : natural(own), natural(largest_of_all.logit), in.log_eps);
    if (present && lane == 0) {
      log_sum[head.row_index(token)] = parts[half].log_sum;
      top[head.row_index(token)] = token_of_larger(best[half], best_dropped[half], head.order);
    }
  }
  __syncwarp();  // nobody reads queries any more
  copy_rows<kWidth>(rows, head.value, in.width,
                    [&](int row) { return of_row(dropped_token, row); });
  wait_for_copies();
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      T* const pair = pair_at<kWidth>(rows, half, n);
      const float2 own_value = load_pair(pair);
      const float* mean = mean_value + column_of(n, 0);
      const auto joined = [&](float of_kept, float of_own, float of_all) {
        return parts[half].kept * of_kept + parts[half].self * of_own +
               parts[half].uniform * of_all;
      };
      store_pair(pair, joined(sum[n][2 * half], own_value.x, mean[0]),
                 joined(sum[n][2 * half + 1], own_value.y, mean[1]));
    }
  }
  __syncwarp();
  store_rows<kWidth>(head.rows(out_rows), rows, in.width, Tokens{nullptr, first_row, in.tokens});
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kForwardWarps<kWidth>* kWarpSize, kWidth <= 64 ? 1 : 2)
    forward_kernel(Inputs<T> in, HeadRows<T> out_rows, float* log_sum, int* top) {
  constexpr int kTile = kForwardTile<kWidth>;
  T* const key = reinterpret_cast<T*>(dynamic_shared());
  T* const value = key + kTile * kPitch<kWidth>;
  float* const mean_value = reinterpret_cast<float*>(value + kTile * kPitch<kWidth>);
  auto* const sources = reinterpret_cast<Sources<T>*>(mean_value + kWidth);
  // The warp's queries, then its rows' own values, then what it makes of them.
  T* const rows = reinterpret_cast<T*>(sources + 1) + warp_of_block() * kWarpSpan<kWidth>;
  const Place place(in.tokens, rows_of_block());
  const Head<T> head(in, place.head);
  const int kept = head.kept();
  const auto with_eps = [&] { return in.log_eps > -INFINITY; };
  copy_rows<kWidth>(rows, head.query, in.width,
                    Tokens{nullptr, first_row_of_warp(place.first), in.tokens});
  copy_mean(mean_value, head.mean_value, in.width);
  if (threadIdx.x == 0) *sources = {head.key.data, head.value.data};
  const auto key_rows = [&] { return Rows<const T>(sources->first, in.key.row_stride); };
  const auto value_rows = [&] { return Rows<const T>(sources->second, in.value.row_stride); };
  // A tile of kept tokens; after those, for the largest logit of all, of the others.
  const auto end = [&] { return with_eps() ? in.tokens : kept; };
  const auto tile_at = [&](int first) {
    return Pieces<kWidth, kTile, T>(Tokens{head.order, first, first < kept ? kept : end()});
  };
  auto next = tile_at(0);  // whose rows are to be copied next
  next.copy(key, head.key, in.width);
  const RowsOperand<kWidth, false, T> query_rows(rows);

  Sums<kWidth> sum = {};
  float largest[2] = {-INFINITY, -INFINITY}, weight_sum[2] = {};
  Top<float> best[2];
  for (int first = 0; first < kept; first += kTile) {
    wait_for_copies();
    __syncthreads();  // the keys have come, and nobody reads values any more
    next.copy(value, value_rows(), in.width);
    next = tile_at(min(first + kTile, kept));
    Sums<kTile> weights;
    multiply<kWidth, kTile>(weights, query_rows, key);
    wait_for_copies();
    __syncthreads();  // the values have come, and nobody reads keys any more
    next.copy(key, key_rows(), in.width);
    finish_logits<kTile>(weights, in.base_2_scale, kept - first);
    if (with_eps()) take_logits<kTile>(best, weights, first);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float here = largest[half];
#pragma unroll
      for (const auto& part : weights) here = max(here, max(part[2 * half], part[2 * half + 1]));
      here = group_max<4>(here);
      const float factor = fast_exp2(largest[half] - here);
      largest[half] = here;
      weight_sum[half] *= factor;
#pragma unroll
      for (auto& part : sum) {
        part[2 * half] *= factor;
        part[2 * half + 1] *= factor;
      }
#pragma unroll
      for (auto& part : weights) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          part[i] = fast_exp2(part[i] - here);
          weight_sum[half] += part[i];
        }
      }
    }
    accumulate<kWidth, kTile>(sum, weights, value);
  }
  Top<float> best_dropped[2];
  T *here = key, *there = value;
  next = tile_at(kept + kTile);
  for (int first = kept; first < end(); first += kTile) {
    wait_for_copies();
    __syncthreads();  // the keys have come, and nobody reads those before any more
    next.copy(there, key_rows(), in.width);
    next = tile_at(first + 2 * kTile);
    Sums<kTile> logits;
    multiply<kWidth, kTile>(logits, query_rows, here);
    finish_logits<kTile>(logits, in.base_2_scale, end() - first);
    take_logits<kTile>(best_dropped, logits, first);
    T* const free = here;
    here = there;
    there = free;
  }
  wait_for_copies();
  __syncthreads();  // the mean value has come, if there were no tiles

  write_forward<T, kWidth>(in, sum, largest, weight_sum, best, best_dropped, rows, mean_value,
                           out_rows, log_sum, top);
}

// Adds to the warp's sums what goes through its rows' own logits and through the largest ones, and
// writes them. `rows` are twice as many as the warp has, which nobody else reads.
template <typename T, int kWidth>
__device__ void write_grad_query(const Inputs<T>& in, const Sums<kWidth>& sum, T* rows,
                                 const int* top, const RowTerms<float>& terms,
                                 const HeadRows<T>& grad_query_rows) {
  const Place place(in.tokens, rows_of_block(), block_index_again());
  const Head<T> head(in, place.head);
  const int first_row = first_row_of_warp(place.first);
  __syncwarp();  // the warp has read its rows
  // The keys of logits that have a gradient: another dropped key may be anything.
  float self_grad[2], top_grad[2];
  int self_token[2], top_token[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = first_row + row_of(2 * half);
    const bool present = token < in.tokens;
    const int64_t row = head.row_index(token);
    self_grad[half] = present ? terms.self_grad[row] : 0;
    top_grad[half] = present ? terms.top_grad[row] : 0;
    self_token[half] = self_grad[half] != 0 ? token : -1;
    top_token[half] = top_grad[half] != 0 ? top[row] : -1;
  }
  T *const own_key = rows, *const largest_key = rows + kWarpSpan<kWidth>;
  copy_rows<kWidth>(own_key, head.key, in.width, [&](int row) { return of_row(self_token, row); });
  copy_rows<kWidth>(largest_key, head.key, in.width,
                    [&](int row) { return of_row(top_token, row); });
  wait_for_copies();
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      T* const pair = pair_at<kWidth>(own_key, half, n);
      const float2 own = load_pair(pair);
      const float2 largest = load_pair(pair_at<kWidth>(largest_key, half, n));
      const auto gradient = [&](float of_kept, float own, float largest) {
        return in.scale * (of_kept + self_grad[half] * own + top_grad[half] * largest);
      };
      store_pair(pair, gradient(sum[n][2 * half], own.x, largest.x),
                 gradient(sum[n][2 * half + 1], own.y, largest.y));
    }
  }
  __syncwarp();
  store_rows<kWidth>(head.rows(grad_query_rows), own_key, in.width,
                     Tokens{nullptr, first_row, in.tokens});
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kGradQueryWarps<kWidth>* kWarpSize, 16 / kGradQueryWarps<kWidth>)
    grad_query_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows, const float* log_sum,
                      const int* top, RowTerms<float> terms, HeadRows<T> grad_query_rows) {
  constexpr int kTile = kBackwardTile<kWidth>, kTileSize = kTile * kPitch<kWidth>;
  T* const keys = reinterpret_cast<T*>(dynamic_shared());  // two tiles
  T* const values = keys + 2 * kTileSize;                  // two tiles
  auto* const sources = reinterpret_cast<Sources<T>*>(values + 2 * kTileSize);
  // Of each of the warp's rows, in base 2, log_sum; delta.
  auto* const row_numbers = reinterpret_cast<float2*>(sources + 1) + warp_of_block() * kRowsPerWarp;
  T* const query = reinterpret_cast<T*>(sources + 1) +
                   rows_of_block() * (sizeof(float2) / sizeof(T)) +
                   warp_of_block() * 2 * kWarpSpan<kWidth>;
  T* const grad_out = query + kWarpSpan<kWidth>;
  const Place place(in.tokens, rows_of_block());
  const Head<T> head(in, place.head);
  const int kept = head.kept();
  const Tokens own_tokens{nullptr, first_row_of_warp(place.first), in.tokens};
  copy_rows<kWidth>(query, head.query, in.width, own_tokens);
  copy_rows<kWidth>(grad_out, head.rows(grad_out_rows), in.width, own_tokens);
  const auto tile_at = [&](int first) {
    return Pieces<kWidth, kTile, T>(Tokens{head.order, first, kept});
  };
  auto next = tile_at(0);
  next.copy(keys, head.key, in.width);
  next.copy(values, head.value, in.width);
  next = tile_at(kTile);
  if (threadIdx.x == 0) *sources = {head.key.data, head.value.data};
  if (lane_of_warp() < kRowsPerWarp) {
    const int64_t row = head.row_index(min(own_tokens.first + lane_of_warp(), in.tokens - 1));
    row_numbers[lane_of_warp()] = make_float2(kLog2E * log_sum[row], terms.delta[row]);
  }
  wait_for_copies();
  __syncwarp();
  const RowsOperand<kWidth, kHoldsRows<kWidth>, T> query_rows(query), grad_rows(grad_out);

  Sums<kWidth> sum = {};
  for (int first = 0, stage = 0; first < kept; first += kTile, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // the tiles have come, and nobody reads those before any more
    next.copy(keys + (stage ^ 1) * kTileSize, Rows<const T>(sources->first, in.key.row_stride),
              in.width);
    next.copy(values + (stage ^ 1) * kTileSize, Rows<const T>(sources->second, in.value.row_stride),
              in.width);
    next = tile_at(first + 2 * kTile);
    const T *key = keys + stage * kTileSize, *value = values + stage * kTileSize;
    Sums<kTile> weights, grad_weights;
    multiply<kWidth, kTile>(weights, query_rows, key);
    multiply<kWidth, kTile>(grad_weights, grad_rows, value);
    const float2 numbers[2] = {row_numbers[row_of(0)], row_numbers[row_of(2)]};
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[n][i] = fast_exp2(weights[n][i] * in.base_2_scale - numbers[i / 2].x) *
                        (grad_weights[n][i] - numbers[i / 2].y);
      }
    }
    set_absent<kTile>(weights, kept - first, 0);
    accumulate<kWidth, kTile>(sum, weights, key);
  }
  write_grad_query<T, kWidth>(in, sum, query, top, terms, grad_query_rows);
}

// Rows of the tile are kept tokens, as keys and values; columns are all tokens, as queries.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kGradKeyValueWarps<kWidth>* kWarpSize)
    grad_key_value_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows, const float* log_sum,
                          const int* top, RowTerms<float> terms, const float* grad_mean,
                          HeadRows<T> grad_key_rows, HeadRows<T> grad_value_rows) {
  constexpr int kTile = kBackwardTile<kWidth>, kTileSize = kTile * kPitch<kWidth>;
  T* const queries = reinterpret_cast<T*>(dynamic_shared());                           // two tiles
  T* const grads_out = queries + 2 * kTileSize;                                        // two tiles
  auto* const columns = reinterpret_cast<Columns<kTile>*>(grads_out + 2 * kTileSize);  // of both
  auto* const sources = reinterpret_cast<Sources<T>*>(columns + 2);
  auto* const numbers = reinterpret_cast<const int**>(sources + 1);  // Columns' four members
  float* const mean = reinterpret_cast<float*>(numbers + 4);
  T* const key = reinterpret_cast<T*>(mean + kWidth) + warp_of_block() * 2 * kWarpSpan<kWidth>;
  T* const value = key + kWarpSpan<kWidth>;
  const Place place(in.tokens, rows_of_block());
  const Head<T> head(in, place.head);
  const int kept = head.kept();
  if (place.first >= kept) return;
  const int first_row = first_row_of_warp(place.first);
  const Tokens kept_tokens{head.order, first_row, kept};
  const int row_token[2] = {kept_tokens(row_of(0)), kept_tokens(row_of(2))};
  const auto token_of = [&](int row) { return of_row(row_token, row); };
  copy_rows<kWidth>(key, head.key, in.width, token_of);
  copy_rows<kWidth>(value, head.value, in.width, token_of);
  copy_mean(mean, grad_mean + static_cast<int64_t>(place.head) * in.width, in.width);
  // Of the four arrays of columns, a thread copies one element.
  static_assert(4 * kTile <= kLeastWarps * kWarpSize);
  const auto copy_columns = [&](int first, int stage) {
    const Pieces<kWidth, kTile, T> pieces(Tokens{nullptr, first, in.tokens});
    pieces.copy(queries + stage * kTileSize, Rows<const T>(sources->first, in.query.row_stride),
                in.width);
    pieces.copy(grads_out + stage * kTileSize,
                Rows<const T>(sources->second, grad_out_rows.row_stride), in.width);
    if (threadIdx.x < 4 * kTile) {
      const int column = first + static_cast<int>(threadIdx.x % kTile);
      copy_async<4>(reinterpret_cast<int*>(columns + stage) + threadIdx.x,
                    numbers[threadIdx.x / kTile] + min(column, in.tokens - 1), column < in.tokens);
    }
  };
  const bool is_idle = first_row >= kept;  // of the warp
  if (threadIdx.x == 0) {
    *sources = {head.query.data, head.rows(grad_out_rows).data};
    numbers[0] = top + head.row_index(0);
    numbers[1] = reinterpret_cast<const int*>(log_sum + head.row_index(0));
    numbers[2] = reinterpret_cast<const int*>(terms.delta + head.row_index(0));
    numbers[3] = reinterpret_cast<const int*>(terms.top_grad + head.row_index(0));
  }
  __syncthreads();
  copy_columns(0, 0);
  wait_for_copies();
  __syncwarp();
  const RowsOperand<kWidth, kHoldsRows<kWidth>, T> key_rows(key), value_rows(value);

  Sums<kWidth> key_sum = {}, value_sum = {};
  for (int first = 0, stage = 0; first < in.tokens; first += kTile, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // the tiles have come, and nobody reads those before any more
    copy_columns(first + kTile, stage ^ 1);
    if (is_idle) continue;
    const T *query = queries + stage * kTileSize, *grad_out = grads_out + stage * kTileSize;
    const Columns<kTile>& of = columns[stage];
    Sums<kTile> weights, grad_logits;
    multiply<kWidth, kTile>(weights, key_rows, query);
    multiply<kWidth, kTile>(grad_logits, value_rows, grad_out);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = column_of(n, i);
        const float weight =
            fast_exp2(weights[n][i] * in.base_2_scale - kLog2E * of.log_sum[column]);
        const float top_grad = of.top[column] == row_token[i / 2] ? of.top_grad[column] : 0.0f;
        weights[n][i] = weight;
        grad_logits[n][i] = weight * (grad_logits[n][i] - of.delta[column]) + top_grad;
      }
    }
    accumulate<kWidth, kTile>(value_sum, weights, grad_out);
    accumulate<kWidth, kTile>(key_sum, grad_logits, query);
  }
  wait_for_copies();
  __syncwarp();  // nobody reads the warp's rows any more

#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const float *key_pair = &key_sum[n][2 * half], *value_pair = &value_sum[n][2 * half];
      const float* mean_pair = mean + column_of(n, 0);
      store_pair(pair_at<kWidth>(key, half, n), in.scale * key_pair[0], in.scale * key_pair[1]);
      store_pair(pair_at<kWidth>(value, half, n), value_pair[0] + mean_pair[0],
                 value_pair[1] + mean_pair[1]);
    }
  }
  __syncwarp();
  const int index = Place(in.tokens, rows_of_block(), block_index_again()).head;
  const int image = index / in.heads, head_of_image = index % in.heads;
  store_rows<kWidth>(grad_key_rows.of(image, head_of_image), key, in.width, token_of);
  store_rows<kWidth>(grad_value_rows.of(image, head_of_image), value, in.width, token_of);
}

// Calls `run(std::integral_constant<int, kWidth>{})` with the width of a tile for rows of `width`.
template <typename Run>
void with_width(int width, Run&& run) {
  if (width <= 64) return run(std::integral_constant<int, 64>{});
  return run(std::integral_constant<int, kLargestHalfReattentionWidth>{});
}

}  // namespace

template <typename T>
void launch_forward(const char* name, const Inputs<T>& in, const MaskedReattentionForward& args,
                    Stream stream) {
  with_width(in.width, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
    const Tiling tiling(name, args.query, kRowsPerWarp, kForwardWarps<kWidth>);
    launch(name, forward_kernel<T, kWidth>, tiling.blocks, tiling.threads(),
           forward_shared_bytes<T, kWidth>(tiling.warps), stream, in, HeadRows<T>(args.out),
           args.log_sum.as<float>(), args.top.as<int>());
  });
}

template <typename T>
void launch_backward(const char* name, const Inputs<T>& in, const MaskedReattentionBackward& args,
                     const Scratch<typename Element<T>::Accumulator>& scratch, Stream stream) {
  with_width(in.width, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
    const Tiling queries(name, args.query, kRowsPerWarp, kGradQueryWarps<kWidth>);
    const Tiling keys(name, args.query, kRowsPerWarp, kGradKeyValueWarps<kWidth>);
    launch_gradients(name, grad_query_kernel<T, kWidth>, queries,
                     grad_query_shared_bytes<T, kWidth>(queries.warps),
                     grad_key_value_kernel<T, kWidth>, keys,
                     grad_key_value_shared_bytes<T, kWidth>(keys.warps), in, args, scratch, stream);
  });
}

template void launch_forward(const char*, const Inputs<__half>&, const MaskedReattentionForward&,
                             Stream);
template void launch_forward(const char*, const Inputs<__nv_bfloat16>&,
                             const MaskedReattentionForward&, Stream);
template void launch_backward(const char*, const Inputs<__half>&, const MaskedReattentionBackward&,
                              const Scratch<float>&, Stream);
template void launch_backward(const char*, const Inputs<__nv_bfloat16>&,
                              const MaskedReattentionBackward&, const Scratch<float>&, Stream);

}  // namespace wsol::cuda::reattention
