// The kernels of masked_reattention for float and double of any width: products in registers.
//
// A block owns a tile of rows of one (image, head): queries, or, for the keys' gradients, kept
// keys. It passes over the other side in tiles of 64 columns. A thread owns kRowsPerThread rows x 4
// columns of a tile of logits, and kRowsPerThread rows x kColumns columns of the width of what is
// summed. Operands pass through shared memory in slices of 16; a tile of weights lies there between
// the two products. Limited by multiply-adds.
#include <climits>
#include <type_traits>

#include "attention/masked_reattention.cuh"

namespace wsol::cuda::reattention {
namespace {

constexpr int kTile = 64;   // columns of a tile of logits
constexpr int kSlice = 16;  // of the width, or of the columns, that lies in shared memory at once
constexpr int kLanesPerRow = 16;
constexpr int kRowGroups = kThreads / kLanesPerRow;

// Blocks that a multiprocessor is to hold, by its registers.
template <typename T>
constexpr int kForwardBlocks = sizeof(T) == sizeof(double) ? 3 : 4;
constexpr int kGradQueryBlocks = 3;

// For widths up to 64 * kWide.
template <typename T, int kWide>
struct Tile {
  using A = typename Element<T>::Accumulator;
  static constexpr int kRowsPerThread = (kWide == 1 ? 8 : 4) * sizeof(float) / sizeof(A);
  static constexpr int kRows = kRowGroups * kRowsPerThread;
  static constexpr int kColumns = 4 * kWide;
  static constexpr int kWidth = 64 * kWide;
  // Of rows in shared memory; keeps 16-byte pieces aligned and spreads over the banks what a warp
  // writes: pieces of neighbouring rows of weights, elements of neighbouring rows of the others.
  static constexpr int kWeightsPitch = kRows + 16 / sizeof(A);
  static constexpr int kPitch = kRows + 4, kTilePitch = kTile + 4, kWidthPitch = kWidth + 4;
  static constexpr int kSliceSize =
      kSlice * (kPitch + kTilePitch > kWidthPitch ? kPitch + kTilePitch : kWidthPitch);

  A* weights;  // (kTile, kWeightsPitch): of column 4 l + c in row kLanesPerRow c + l
  A* slice;
  int* rows;     // token of each row of the tile, -1 past the end
  int* columns;  // of each column

  static constexpr size_t kSharedBytes =
      (kTile * kWeightsPitch + kSliceSize) * sizeof(A) + (kRows + kTile) * sizeof(int);
  // The forward's, which has more numbers of each row than there are registers: a sum of each
  // thread's, and the largest logit.
  static constexpr size_t kForwardBytes =
      kSharedBytes + (kThreads * kRowsPerThread + kRows) * sizeof(A);

  __device__ Tile() {
    weights = reinterpret_cast<A*>(dynamic_shared());
    slice = weights + kTile * kWeightsPitch;
    rows = reinterpret_cast<int*>(slice + kSliceSize);
    columns = rows + kRows;
  }
  __device__ static int first_row() { return threadIdx.x / kLanesPerRow * kRowsPerThread; }
  __device__ static int first_column() { return threadIdx.x % kLanesPerRow * 4; }
  // The place in the width of the thread's column `c`: pieces of 4, kLanesPerRow pieces apart.
  __device__ static int place(int c) { return c / 4 * kTile + first_column() + c % 4; }

  __device__ static void list(int* to, unsigned count, const Tokens& tokens) {
    static_assert(kRows <= kThreads && kTile <= kThreads);
    if (threadIdx.x < count) to[threadIdx.x] = tokens[threadIdx.x];
  }

  // out[r][c] = row r of `a` . column c of `b`. Begins and ends without a barrier of its own about
  // `rows` and `columns`.
  __device__ void multiply(A (&out)[kRowsPerThread][4], Rows<const T> a, Rows<const T> b,
                           int width) const {
    A* const row_slice = slice;
    A* const column_slice = slice + kSlice * kPitch;
#pragma unroll
    for (auto& row : out) {
      for (A& value : row) value = 0;
    }
    for (int d0 = 0; d0 < width; d0 += kSlice) {
      __syncthreads();
      stage_transposed<kRows, kPitch>(row_slice, a, rows, d0, width);
      stage_transposed<kTile, kTilePitch>(column_slice, b, columns, d0, width);
      __syncthreads();
#pragma unroll 2
      for (int d = 0; d < kSlice; ++d) {
        A x[kRowsPerThread], y[4];
        load_values(x, row_slice + d * kPitch + first_row());
        load_values(y, column_slice + d * kTilePitch + first_column());
#pragma unroll
        for (int r = 0; r < kRowsPerThread; ++r) {
#pragma unroll
          for (int c = 0; c < 4; ++c) out[r][c] += x[r] * y[c];
        }
      }
    }
  }

  // Writes the thread's part of a tile for `accumulate` to read.
  __device__ void store_weights(const A (&values)[kRowsPerThread][4]) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      A of_rows[kRowsPerThread];
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) of_rows[r] = values[r][c];
      store_values(weights_of(first_column() + c), of_rows);
    }
  }

  // sum[r][:] += sum over columns c of weights[c][r] * row of `x` for column c. The weights of
  // columns from `present` on are zero.
  __device__ void accumulate(A (&sum)[kRowsPerThread][kColumns], Rows<const T> x, int width,
                             int present) const {
    for (int j0 = 0; j0 < kTile && j0 < present; j0 += kSlice) {
      __syncthreads();
#pragma unroll 8
      for (int step = 0; step < kSlice * kWidth / kThreads; ++step) {
        const int i = step * kThreads + threadIdx.x, j = i / kWidth, d = i % kWidth;
        const bool inside = j0 + j < present && d < width;
        slice[j * kWidthPitch + d] = inside ? Element<T>::load(x[columns[j0 + j]][d]) : A{0};
      }
      __syncthreads();
#pragma unroll 2
      for (int j = 0; j < kSlice; ++j) {
        A w[kRowsPerThread];
        load_values(w, weights_of(j0 + j));
#pragma unroll
        for (int c = 0; c < kColumns; c += 4) {
          A y[4];
          load_values(y, slice + j * kWidthPitch + place(c));
#pragma unroll
          for (int r = 0; r < kRowsPerThread; ++r) {
#pragma unroll
            for (int k = 0; k < 4; ++k) sum[r][c + k] += w[r] * y[k];
          }
        }
      }
    }
  }

 private:
  // The weights of a column and the thread's rows.
  __device__ A* weights_of(int column) const {
    const int row = column % 4 * kLanesPerRow + column / 4;
    return weights + row * kWeightsPitch + first_row();
  }

  // A warp reads whole sectors of a few rows.
  template <int kCount, int kPitchOfCount>
  __device__ static void stage_transposed(A* to, Rows<const T> from, const int* tokens, int d0,
                                          int width) {
    constexpr int kRun = 32 / sizeof(T), kRowsAtOnce = kThreads / kRun;
    const int first_row = threadIdx.x / kRun, first_d = threadIdx.x % kRun;
#pragma unroll 1
    for (int d = first_d; d < kSlice; d += kRun) {
#pragma unroll
      for (int i = 0; i < (kCount + kRowsAtOnce - 1) / kRowsAtOnce; ++i) {
        const int r = first_row + i * kRowsAtOnce;
        if (kCount % kRowsAtOnce != 0 && r >= kCount) continue;
        const bool inside = tokens[r] >= 0 && d0 + d < width;
        to[d * kPitchOfCount + r] = inside ? Element<T>::load(from[tokens[r]][d0 + d]) : A{0};
      }
    }
  }
};

// Four elements of a row from `d` on, as far as its width goes, at once if `in_pieces`.
template <typename A>
__device__ void load_four(A (&to)[4], const A* row, int d, int width, bool in_pieces) {
  if (in_pieces) return load_values(to, row + d);
#pragma unroll
  for (int k = 0; k < 4; ++k) to[k] = d + k < width ? row[d + k] : A{0};
}

template <typename A>
__device__ void store_four(A* row, const A (&from)[4], int d, int width, bool in_pieces) {
  if (in_pieces) return store_values(row + d, from);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (d + k < width) row[d + k] = from[k];
  }
}

template <typename T, int kWide>
__global__ void __launch_bounds__(kThreads, kForwardBlocks<T>)
    forward_kernel(Inputs<T> in, HeadRows<T> out_rows, typename Element<T>::Accumulator* log_sum,
                   int* top) {
  using A = typename Element<T>::Accumulator;
  using Tile = Tile<T, kWide>;
  constexpr int kR = Tile::kRowsPerThread;
  const Tile tile;
  const Place place(in.tokens, Tile::kRows);
  const Head<T> head(in, place.head);
  const bool with_eps = in.log_eps > -INFINITY;
  Tile::list(tile.rows, Tile::kRows, Tokens{nullptr, place.first, in.tokens});

  A* const weight_sum =  // of row r of this thread: [r * kThreads]
      reinterpret_cast<A*>(tile.columns + kTile) + threadIdx.x;
  A* const largest =  // of row r of this thread and those beside it: [r]
      weight_sum - threadIdx.x + kR * kThreads + Tile::first_row();
  A sum[kR][Tile::kColumns] = {};
  for (int r = 0; r < kR; ++r) {
    weight_sum[r * kThreads] = 0;
    if (threadIdx.x % kLanesPerRow == 0) largest[r] = -INFINITY;
  }
  __syncwarp();
  Top<A> best[kR];
  // The kept tokens, then, for the largest logit of all, the others.
  const int end = with_eps ? in.tokens : head.kept;
  for (int first = 0; first < end; first += kTile) {
    __syncthreads();
    Tile::list(tile.columns, kTile, Tokens{head.order, first, end});
    A weights[kR][4];
    tile.multiply(weights, head.query, head.key, in.width);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int token = tile.columns[Tile::first_column() + c];
      const bool counts = with_eps & (token >= 0);
      const bool is_kept = first + Tile::first_column() + c < head.kept;
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        const A logit = weights[r][c] * in.scale;
        best[r].take(counts ? logit : -static_cast<A>(INFINITY), counts ? token : INT_MAX);
        weights[r][c] = is_kept ? logit : -INFINITY;
      }
    }
    if (first >= head.kept) continue;
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const A before = largest[r];
      A here = before;
      for (const A logit : weights[r]) here = max(here, logit);
      here = group_max<kLanesPerRow>(here);
      const A factor = exp(before - here);
      if (threadIdx.x % kLanesPerRow == 0) largest[r] = here;  // read again after a barrier
      A weights_here = 0;
      for (A& value : weights[r]) {
        value = exp(value - here);
        weights_here += value;
      }
      weight_sum[r * kThreads] = weight_sum[r * kThreads] * factor + weights_here;
      for (A& value : sum[r]) value *= factor;
    }
    tile.store_weights(weights);
    tile.accumulate(sum, head.value, in.width, head.kept - first);
  }

  const Rows<T> out = head.rows(out_rows);
  const int lane = threadIdx.x % kLanesPerRow;
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    best[r].template take_from_group<kLanesPerRow>();
    const int row = min(place.first + Tile::first_row() + r, in.tokens - 1);
    const bool is_kept = head.keep[row];
    const A own =
        in.scale * group_sum<kLanesPerRow>(is_kept ? A{0}
                                                   : partial_dot<1>(head.query[row], head.key[row],
                                                                    in.width, lane, kLanesPerRow));
    const Parts<A> parts =
        join(largest[r], group_sum<kLanesPerRow>(weight_sum[r * kThreads]),
             is_kept ? -static_cast<A>(INFINITY) : own, best[r].logit, in.log_eps);
    if (place.first + Tile::first_row() + r >= in.tokens) continue;
#pragma unroll
    for (int c = 0; c < Tile::kColumns; c += 4) {
      const int d = Tile::place(c);
      if (d >= in.width) continue;
      A own_value[4], mean_value[4], result[4];
      load_four(own_value, head.value[row], d, in.width, in.in_pieces);
      load_four(mean_value, head.mean_value, d, in.width, in.in_pieces);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        result[k] =
            parts.kept * sum[r][c + k] + parts.self * own_value[k] + parts.uniform * mean_value[k];
      }
      store_four(out[row], result, d, in.width, in.in_pieces);
    }
    if (lane == 0) {
      log_sum[head.first_row + row] = parts.log_sum;
      top[head.first_row + row] = best[r].token;
    }
  }
}

template <typename T, int kWide>
__global__ void __launch_bounds__(kThreads, kGradQueryBlocks)
    grad_query_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows,
                      const typename Element<T>::Accumulator* log_sum, const int* top,
                      RowTerms<typename Element<T>::Accumulator> terms,
                      HeadRows<T> grad_query_rows) {
  using A = typename Element<T>::Accumulator;
  using Tile = Tile<T, kWide>;
  constexpr int kR = Tile::kRowsPerThread;
  const Tile tile;
  const Place place(in.tokens, Tile::kRows);
  const Head<T> head(in, place.head);
  const Rows<const T> grad_out = head.rows(grad_out_rows);
  Tile::list(tile.rows, Tile::kRows, Tokens{nullptr, place.first, in.tokens});
  A row_log_sum[kR], delta[kR];
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    const int row = min(place.first + Tile::first_row() + r, in.tokens - 1);
    row_log_sum[r] = log_sum[head.first_row + row];
    delta[r] = terms.delta[head.first_row + row];
  }

  A sum[kR][Tile::kColumns] = {};
  for (int first = 0; first < head.kept; first += kTile) {
    __syncthreads();
    Tile::list(tile.columns, kTile, Tokens{head.order, first, head.kept});
    A weights[kR][4], grad_weights[kR][4];
    tile.multiply(weights, head.query, head.key, in.width);
    tile.multiply(grad_weights, grad_out, head.value, in.width);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const bool present = first + Tile::first_column() + c < head.kept;
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        const A weight = exp(weights[r][c] * in.scale - row_log_sum[r]);
        weights[r][c] = present ? weight * (grad_weights[r][c] - delta[r]) : A{0};
      }
    }
    tile.store_weights(weights);
    tile.accumulate(sum, head.key, in.width, head.kept - first);
  }

  const Rows<T> grad_query = head.rows(grad_query_rows);
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    const int row = place.first + Tile::first_row() + r;
    if (row >= in.tokens) continue;
    const A self_grad = terms.self_grad[head.first_row + row];
    const A top_grad = terms.top_grad[head.first_row + row];
    // Without eps nothing has a gradient there, and a dropped key may be anything.
    const int top_token = top[head.first_row + row] >= 0 ? top[head.first_row + row] : row;
#pragma unroll
    for (int c = 0; c < Tile::kColumns; c += 4) {
      const int d = Tile::place(c);
      if (d >= in.width) continue;
      A own_key[4], top_key[4], result[4];
      load_four(own_key, head.key[row], d, in.width, in.in_pieces);
      load_four(top_key, head.key[top_token], d, in.width, in.in_pieces);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        result[k] = in.scale * (sum[r][c + k] + self_grad * own_key[k] + top_grad * top_key[k]);
      }
      store_four(grad_query[row], result, d, in.width, in.in_pieces);
    }
  }
}

// Rows of the tile are kept tokens, as keys and values; columns are all tokens, as queries.
template <typename T, int kWide>
__global__ void __launch_bounds__(kThreads)
    grad_key_value_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows,
                          const typename Element<T>::Accumulator* log_sum, const int* top,
                          RowTerms<typename Element<T>::Accumulator> terms,
                          const typename Element<T>::Accumulator* grad_mean,
                          HeadRows<T> grad_key_rows, HeadRows<T> grad_value_rows) {
  using A = typename Element<T>::Accumulator;
  using Tile = Tile<T, kWide>;
  constexpr int kR = Tile::kRowsPerThread;
  const Tile tile;
  const Place place(in.tokens, Tile::kRows);
  const Head<T> head(in, place.head);
  if (place.first >= head.kept) return;
  const Rows<const T> grad_out = head.rows(grad_out_rows);
  Tile::list(tile.rows, Tile::kRows, Tokens{head.order, place.first, head.kept});

  A key_sum[kR][Tile::kColumns] = {}, value_sum[kR][Tile::kColumns] = {};
  for (int first = 0; first < in.tokens; first += kTile) {
    __syncthreads();
    Tile::list(tile.columns, kTile, Tokens{nullptr, first, in.tokens});
    A weights[kR][4], grad_logits[kR][4];
    tile.multiply(weights, head.key, head.query, in.width);
    tile.multiply(grad_logits, head.value, grad_out, in.width);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int query = first + Tile::first_column() + c;
      const bool present = query < in.tokens;
      const int64_t row = head.first_row + (present ? query : 0);
      const A query_log_sum = log_sum[row], delta = terms.delta[row],
              top_grad = terms.top_grad[row];
      const int query_top = top[row];
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        const A weight = present ? exp(weights[r][c] * in.scale - query_log_sum) : A{0};
        const bool is_top = present && query_top == tile.rows[Tile::first_row() + r];
        weights[r][c] = weight;
        grad_logits[r][c] = weight * (grad_logits[r][c] - delta) + (is_top ? top_grad : A{0});
      }
    }
    tile.store_weights(weights);
    tile.accumulate(value_sum, grad_out, in.width, in.tokens - first);
    __syncthreads();
    tile.store_weights(grad_logits);
    tile.accumulate(key_sum, head.query, in.width, in.tokens - first);
  }

  const Rows<T> grad_key = head.rows(grad_key_rows), grad_value = head.rows(grad_value_rows);
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    if (place.first + Tile::first_row() + r >= head.kept) continue;
    const int token = tile.rows[Tile::first_row() + r];
#pragma unroll
    for (int c = 0; c < Tile::kColumns; c += 4) {
      const int d = Tile::place(c);
      if (d >= in.width) continue;
      A key_result[4], value_result[4];
      load_four(value_result, grad_mean + place.head * in.width, d, in.width, in.in_pieces);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        key_result[k] = in.scale * key_sum[r][c + k];
        value_result[k] += value_sum[r][c + k];
      }
      store_four(grad_key[token], key_result, d, in.width, in.in_pieces);
      store_four(grad_value[token], value_result, d, in.width, in.in_pieces);
    }
  }
}

// Calls `run(std::integral_constant<int, kWide>{})` with a tile for the width. Each costs seconds
// to compile, so there is one for the width that transformers have, and one for all others.
template <typename T, typename Run>
void with_width(int width, Run&& run) {
  if constexpr (std::is_same_v<T, float>) {
    if (width <= 64) return run(std::integral_constant<int, 1>{});
  }
  static_assert(kLargestReattentionWidth == 256);
  return run(std::integral_constant<int, 4>{});
}

}  // namespace

template <typename T>
void launch_forward(const char* name, const Inputs<T>& in, const MaskedReattentionForward& args,
                    Stream stream) {
  using A = typename Element<T>::Accumulator;
  with_width<T>(in.width, [&]<int kWide>(std::integral_constant<int, kWide>) {
    using Tile = Tile<T, kWide>;
    launch(name, forward_kernel<T, kWide>, tiles_of(args.query, Tile::kRows), kThreads,
           Tile::kForwardBytes, stream, in, HeadRows<T>(args.out), args.log_sum.as<A>(),
           args.top.as<int>());
  });
}

template <typename T>
void launch_backward(const char* name, const Inputs<T>& in, const MaskedReattentionBackward& args,
                     const Scratch<typename Element<T>::Accumulator>& scratch, Stream stream) {
  with_width<T>(in.width, [&]<int kWide>(std::integral_constant<int, kWide>) {
    using Tile = Tile<T, kWide>;
    launch_gradients(name, grad_query_kernel<T, kWide>, grad_key_value_kernel<T, kWide>,
                     tiles_of(args.query, Tile::kRows), Tile::kSharedBytes, in, args, scratch,
                     stream);
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
