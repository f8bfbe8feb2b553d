// The kernels of masked_reattention for float and double of any width: products in registers.
//
// A block owns a tile of rows of one (image, head): queries, or, for the keys' gradients, kept
// keys. It passes over the other side in tiles of 64 columns. A thread owns kRowsPerThread rows x 4
// columns of a tile of logits, and kRowsPerThread rows x kColumns columns of the width of what is
// summed; masked_reattention_tiles.cuh has the products. Limited by multiply-adds.
#include <climits>

#include "attention/masked_reattention_tiles.cuh"

namespace wsol::cuda::reattention {
namespace {

// For floats of the width that transformers have, and for all else: each costs seconds to compile.
template <typename T, bool kHeld>
using Tile = std::conditional_t<kHeld, HeldTile, SlicedTile<T>>;

// Warps of a block at most: of held tiles as many as find room in the shared memory of every GPU.
template <bool kHeld>
constexpr int kForwardWarps = kHeld ? 14 : kLeastWarps;
template <bool kHeld>
constexpr int kGradQueryWarps = kHeld ? 8 : kLeastWarps;
template <bool kHeld>
constexpr int kGradKeyValueWarps = kHeld ? 6 : kLeastWarps;

// Blocks that a multiprocessor is to hold, by its registers.
template <typename T, bool kHeld>
constexpr int kForwardBlocks = kHeld                         ? 1
                               : sizeof(T) == sizeof(double) ? 3
                                                             : 4;
template <bool kHeld>
constexpr int kGradQueryBlocks = kHeld ? 1 : 3;

template <typename T, bool kHeld>
__global__ void __launch_bounds__(kForwardWarps<kHeld>* kWarpSize, kForwardBlocks<T, kHeld>)
    forward_kernel(Inputs<T> in, HeadRows<T> out_rows, typename Element<T>::Accumulator* log_sum,
                   int* top) {
  using A = typename Element<T>::Accumulator;
  using Tile = Tile<T, kHeld>;
  constexpr int kR = Tile::kRowsPerThread;
  const Tile tile(1, 1);
  const Place place(in.tokens, Tile::rows_of_block());
  const Head<T> head(in, place.head);
  const int kept = head.kept();
  const bool with_eps = in.log_eps > -INFINITY;
  list(tile.rows, Tile::rows_of_block(), Tokens{nullptr, place.first, in.tokens});
  __syncthreads();
  const auto query = tile.template hold<0>(head.query, in.width, in.in_pieces);

  const bool is_first_lane = threadIdx.x % kLanesPerRow == 0;
  A* const largest = tile.row_numbers + Tile::first_row();
  A* const weight_sum = tile.more_row_numbers + Tile::first_row();
  A sum[kR][Tile::kColumns] = {};
  if (is_first_lane) {
    for (int r = 0; r < kR; ++r) {
      largest[r] = -INFINITY;
      weight_sum[r] = 0;
    }
  }
  __syncwarp();
  Top<A> best[kR];
  // The kept tokens, then, for the largest logit of all, the others.
  const int end = with_eps ? in.tokens : kept;
  for (int first = 0; first < end; first += kTile) {
    __syncthreads();  // nobody reads the tile before any more
    list(tile.columns, kTile, Tokens{head.order, first, end});
    __syncthreads();
    const auto key = tile.template load<0>(head.key, in.width, in.in_pieces, end - first);
    tile.arrive();
    A weights[kR][4];
    tile.multiply(weights, query, key, in.width);
    tile.release();
    const auto value = tile.template load<0>(head.value, in.width, in.in_pieces, kept - first);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int token = tile.columns[first_column() + c];
      const bool counts = with_eps & (token >= 0);
      const bool is_kept = first + first_column() + c < kept;
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        const A logit = weights[r][c] * in.scale;
        best[r].take(counts ? logit : -static_cast<A>(INFINITY), counts ? token : INT_MAX);
        weights[r][c] = is_kept ? logit : -INFINITY;
      }
    }
    if (first >= kept) continue;
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const A before = largest[r];
      A here = before;
      for (const A logit : weights[r]) here = max(here, logit);
      here = group_max<kLanesPerRow>(here);
      const A factor = exp(before - here);
      A weights_here = 0;
      for (A& weight : weights[r]) {
        weight = exp(weight - here);
        weights_here += weight;
      }
      weights_here = group_sum<kLanesPerRow>(weights_here);
      if (is_first_lane) {  // read by the others after a barrier
        largest[r] = here;
        weight_sum[r] = weight_sum[r] * factor + weights_here;
      }
      for (A& element : sum[r]) element *= factor;
    }
    tile.arrive();
    tile.accumulate(sum, weights, value, in.width, kept - first);
  }
  wait_for_copies();
  __syncwarp();

  Parts<A> parts[kR];
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    best[r].template take_from_group<kLanesPerRow>();
    const int row = place.first + Tile::first_row() + r, token = min(row, in.tokens - 1);
    const bool is_kept = head.keep[token];
    const int lane = threadIdx.x % kLanesPerRow;
    const A own =
        in.scale *
        group_sum<kLanesPerRow>(is_kept ? A{0}
                                        : partial_dot<1>(tile.row(query, r, token), head.key[token],
                                                         in.width, lane, kLanesPerRow));
    parts[r] = join(largest[r], weight_sum[r], is_kept ? -static_cast<A>(INFINITY) : own,
                    best[r].logit, in.log_eps);
    if (row < in.tokens && is_first_lane) {
      log_sum[head.row_index(row)] = parts[r].log_sum;
      top[head.row_index(row)] = best[r].token;
    }
  }
  const Rows<T> out = head.rows(out_rows);
#pragma unroll
  for (int c = 0; c < Tile::kColumns; c += 4) {
    const int d = Tile::place(c);
    if (d >= in.width) continue;
    A mean_value[4];
    load_four(mean_value, head.mean_value, d, in.width, in.in_pieces);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const int row = place.first + Tile::first_row() + r;
      if (row >= in.tokens) continue;
      A own_value[4] = {}, result[4];
      if (parts[r].self != 0) {
        load_four(own_value, head.value[row], d, in.width, in.in_pieces);
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        result[k] = parts[r].kept * sum[r][c + k] + parts[r].self * own_value[k] +
                    parts[r].uniform * mean_value[k];
      }
      store_four(out[row], result, d, in.width, in.in_pieces);
    }
  }
}

template <typename T, bool kHeld>
__global__ void __launch_bounds__(kGradQueryWarps<kHeld>* kWarpSize, kGradQueryBlocks<kHeld>)
    grad_query_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows,
                      const typename Element<T>::Accumulator* log_sum, const int* top,
                      RowTerms<typename Element<T>::Accumulator> terms,
                      HeadRows<T> grad_query_rows) {
  using A = typename Element<T>::Accumulator;
  using Tile = Tile<T, kHeld>;
  constexpr int kR = Tile::kRowsPerThread;
  const Tile tile(2, 1);
  const Place place(in.tokens, Tile::rows_of_block());
  const Head<T> head(in, place.head);
  const int kept = head.kept();
  list(tile.rows, Tile::rows_of_block(), Tokens{nullptr, place.first, in.tokens});
  __syncthreads();
  const auto query = tile.template hold<0>(head.query, in.width, in.in_pieces);
  const auto grad_out = tile.template hold<1>(head.rows(grad_out_rows), in.width, in.in_pieces);
  for (int i = threadIdx.x; i < Tile::rows_of_block(); i += blockDim.x) {
    const int64_t row = head.row_index(min(place.first + i, in.tokens - 1));
    tile.row_numbers[i] = log_sum[row];
    tile.more_row_numbers[i] = terms.delta[row];
  }
  A* const row_log_sum = tile.row_numbers + Tile::first_row();
  A* const delta = tile.more_row_numbers + Tile::first_row();
  A sum[kR][Tile::kColumns] = {};
  for (int first = 0; first < kept; first += kTile) {
    __syncthreads();  // nobody reads the tile before any more
    list(tile.columns, kTile, Tokens{head.order, first, kept});
    __syncthreads();
    const auto value = tile.template load<0>(head.value, in.width, in.in_pieces, kTile);
    tile.arrive();
    A weights[kR][4], grad_weights[kR][4];
    tile.multiply(grad_weights, grad_out, value, in.width);
    tile.release();
    const auto key = tile.template load<0>(head.key, in.width, in.in_pieces, kTile);
    tile.arrive();
    tile.multiply(weights, query, key, in.width);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const bool present = first + first_column() + c < kept;
        const A weight = exp(weights[r][c] * in.scale - row_log_sum[r]);
        weights[r][c] = present ? weight * (grad_weights[r][c] - delta[r]) : A{0};
      }
    }
    tile.accumulate(sum, weights, key, in.width, kept - first);
  }
  wait_for_copies();
  __syncthreads();  // nobody reads the rows' numbers any more

  for (int i = threadIdx.x; i < Tile::rows_of_block(); i += blockDim.x) {
    const int64_t row = head.row_index(min(place.first + i, in.tokens - 1));
    tile.row_numbers[i] = terms.self_grad[row];
    tile.more_row_numbers[i] = terms.top_grad[row];
    tile.rows[i] = top[row];
  }
  __syncthreads();
  const Rows<T> grad_query = head.rows(grad_query_rows);
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    const int i = Tile::first_row() + r, row = place.first + i;
    if (row >= in.tokens) continue;
    const A self_grad = tile.row_numbers[i], top_grad = tile.more_row_numbers[i];
    const int top_token = tile.rows[i];
#pragma unroll
    for (int c = 0; c < Tile::kColumns; c += 4) {
      const int d = Tile::place(c);
      if (d >= in.width) continue;
      // Where a logit has no gradient, a dropped key may be anything.
      A own_key[4] = {}, top_key[4] = {}, result[4];
      if (self_grad != 0) load_four(own_key, head.key[row], d, in.width, in.in_pieces);
      if (top_grad != 0) load_four(top_key, head.key[top_token], d, in.width, in.in_pieces);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        result[k] = in.scale * (sum[r][c + k] + self_grad * own_key[k] + top_grad * top_key[k]);
      }
      store_four(grad_query[row], result, d, in.width, in.in_pieces);
    }
  }
}

// Rows of the tile are kept tokens, as keys and values; columns are all tokens, as queries.
template <typename T, bool kHeld>
__global__ void __launch_bounds__(kGradKeyValueWarps<kHeld>* kWarpSize)
    grad_key_value_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows,
                          const typename Element<T>::Accumulator* log_sum, const int* top,
                          RowTerms<typename Element<T>::Accumulator> terms,
                          const typename Element<T>::Accumulator* grad_mean,
                          HeadRows<T> grad_key_rows, HeadRows<T> grad_value_rows) {
  using A = typename Element<T>::Accumulator;
  using Tile = Tile<T, kHeld>;
  constexpr int kR = Tile::kRowsPerThread;
  const Tile tile(2, 2);
  const Place place(in.tokens, Tile::rows_of_block());
  const Head<T> head(in, place.head);
  const int kept = head.kept();
  if (place.first >= kept) return;
  list(tile.rows, Tile::rows_of_block(), Tokens{head.order, place.first, kept});
  __syncthreads();
  const auto key = tile.template hold<0>(head.key, in.width, in.in_pieces);
  const auto value = tile.template hold<1>(head.value, in.width, in.in_pieces);

  const bool is_idle = tile.rows[Tile::first_row() / Tile::kRowsPerWarp * Tile::kRowsPerWarp] < 0;
  A key_sum[kR][Tile::kColumns] = {}, value_sum[kR][Tile::kColumns] = {};
  for (int first = 0; first < in.tokens; first += kTile) {
    __syncthreads();  // nobody reads the tile before any more
    list(tile.columns, kTile, Tokens{nullptr, first, in.tokens});
    for (int i = threadIdx.x; i < kTile; i += blockDim.x) {
      const int64_t row = head.row_index(min(first + i, in.tokens - 1));
      auto& of = tile.queries->of;
      of.log_sum[i] = log_sum[row];
      of.delta[i] = terms.delta[row];
      of.top_grad[i] = terms.top_grad[row];
      of.top[i] = top[row];
    }
    __syncthreads();
    const auto query = tile.template load<0>(head.query, in.width, in.in_pieces, kTile);
    const auto grad_out =
        tile.template load<1>(head.rows(grad_out_rows), in.width, in.in_pieces, kTile);
    tile.arrive();
    if constexpr (kHeld) {
      if (is_idle) continue;  // a whole warp; tiles in slices are the block's
    }
    A weights[kR][4], grad_logits[kR][4];
    tile.multiply(weights, key, query, in.width);
    tile.multiply(grad_logits, value, grad_out, in.width);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int column = first_column() + c;
      const bool present = first + column < in.tokens;
      const auto& of = tile.queries->of;
      const A query_log_sum = of.log_sum[column], delta = of.delta[column],
              top_grad = of.top_grad[column];
      const int query_top = of.top[column];
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        const A weight = present ? exp(weights[r][c] * in.scale - query_log_sum) : A{0};
        const bool is_top = present && query_top == tile.rows[Tile::first_row() + r];
        weights[r][c] = weight;
        grad_logits[r][c] = weight * (grad_logits[r][c] - delta) + (is_top ? top_grad : A{0});
      }
    }
    tile.accumulate(value_sum, weights, grad_out, in.width, in.tokens - first);
    tile.accumulate(key_sum, grad_logits, query, in.width, in.tokens - first);
  }

  wait_for_copies();
  __syncthreads();  // nobody reads the queries' numbers any more
  for (int d = threadIdx.x; d < in.width; d += blockDim.x) {
    tile.queries->mean[d] = grad_mean[static_cast<int64_t>(place.head) * in.width + d];
  }
  __syncthreads();
  const Rows<T> grad_key = head.rows(grad_key_rows), grad_value = head.rows(grad_value_rows);
#pragma unroll
  for (int c = 0; c < Tile::kColumns; c += 4) {
    const int d = Tile::place(c);
    if (d >= in.width) continue;
    A mean[4];
    load_four(mean, tile.queries->mean, d, in.width, in.in_pieces);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const int token = tile.rows[Tile::first_row() + r];
      if (token < 0) continue;
      A key_result[4], value_result[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        key_result[k] = in.scale * key_sum[r][c + k];
        value_result[k] = value_sum[r][c + k] + mean[k];
      }
      store_four(grad_key[token], key_result, d, in.width, in.in_pieces);
      store_four(grad_value[token], value_result, d, in.width, in.in_pieces);
    }
  }
}

// Calls `run(std::bool_constant<kHeld>{})` with the tile for rows of `width`.
template <typename T, typename Run>
void with_tile(int width, Run&& run) {
  if constexpr (std::is_same_v<T, float>) {
    if (width <= HeldTile::kWidth) return run(std::true_type{});
  }
  return run(std::false_type{});
}

}  // namespace

template <typename T>
void launch_forward(const char* name, const Inputs<T>& in, const MaskedReattentionForward& args,
                    Stream stream) {
  using A = typename Element<T>::Accumulator;
  with_tile<T>(in.width, [&]<bool kHeld>(std::bool_constant<kHeld>) {
    using Tile = Tile<T, kHeld>;
    const Tiling tiling(name, args.query, Tile::kRowsPerWarp, kForwardWarps<kHeld>);
    launch(name, forward_kernel<T, kHeld>, tiling.blocks, tiling.threads(),
           Tile::shared_bytes(tiling.warps, 1, 1), stream, in, HeadRows<T>(args.out),
           args.log_sum.as<A>(), args.top.as<int>());
  });
}

template <typename T>
void launch_backward(const char* name, const Inputs<T>& in, const MaskedReattentionBackward& args,
                     const Scratch<typename Element<T>::Accumulator>& scratch, Stream stream) {
  with_tile<T>(in.width, [&]<bool kHeld>(std::bool_constant<kHeld>) {
    using Tile = Tile<T, kHeld>;
    const Tiling queries(name, args.query, Tile::kRowsPerWarp, kGradQueryWarps<kHeld>);
    const Tiling keys(name, args.query, Tile::kRowsPerWarp, kGradKeyValueWarps<kHeld>);
    launch_gradients(name, grad_query_kernel<T, kHeld>, queries,
                     Tile::shared_bytes(queries.warps, 2, 1), grad_key_value_kernel<T, kHeld>, keys,
                     Tile::shared_bytes(keys.warps, 2, 2), in, args, scratch, stream);
  });
}

template void launch_forward(const char*, const Inputs<float>&, const MaskedReattentionForward&,
                             Stream);
template void launch_forward(const char*, const Inputs<double>&, const MaskedReattentionForward&,
                             Stream);
template void launch_backward(const char*, const Inputs<float>&, const MaskedReattentionBackward&,
                              const Scratch<float>&, Stream);
template void launch_backward(const char*, const Inputs<double>&, const MaskedReattentionBackward&,
                              const Scratch<double>&, Stream);

}  // namespace wsol::cuda::reattention
