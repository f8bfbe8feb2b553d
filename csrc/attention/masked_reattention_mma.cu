// The kernels of masked_reattention for half types on tensor cores, widths up to 128 in whole
// 16-byte pieces.
//
// A block owns a tile of 64 rows of one (image, head), a warp 16 of them: queries, or, for the
// keys' gradients, kept keys. It passes over the other side in tiles of kTile columns. Operands lie
// in shared memory, rows 16 bytes longer than they are wide, so that the eight rows of a matrix
// that ldmatrix reads lie in different banks; past the width they are zero. Logits, weights and
// sums stay in registers: a product's result is the next one's operand as it lies. While one tile
// is computed with, the next one is on its way.
#include <type_traits>

#include "attention/masked_reattention.cuh"
#include "core/mma.cuh"

namespace wsol::cuda::reattention {
namespace {

constexpr int kRowsPerWarp = 16;
constexpr int kRows = kWarps * kRowsPerWarp;

template <int kWidth>
constexpr int kPitch = kWidth + 8;

// Logits are in base 2 until they leave a tile: a weight is one power of two.
constexpr float kLog2E = 1.44269504f, kLog2 = 0.693147181f;

// Rounded by itself, so that equal logits stay equal.
__device__ inline float natural(float base_2) { return __fmul_rn(base_2, kLog2); }

// A warp's (16, kColumns) part of a product: [n][i] is at row_of(i), column_of(n, i).
template <int kColumns>
using Sums = float[kColumns / 8][4];

__device__ inline int lane_of_warp() { return threadIdx.x % kWarpSize; }
__device__ inline int first_row_of_warp() { return threadIdx.x / kWarpSize * kRowsPerWarp; }
__device__ inline int row_of(int i) { return first_row_of_warp() + lane_of_warp() / 4 + i / 2 * 8; }
__device__ inline int column_of(int n, int i) { return n * 8 + lane_of_warp() % 4 * 2 + i % 2; }

// Where this lane's row begins of the four 8 x 8 matrices at (row, column) of a tile. Matrices are
// counted down the rows first, or along the columns.
template <int kWidth, bool kDownFirst, typename T>
__device__ const T* matrix_row(const T* tile, int row, int column) {
  const int lane = lane_of_warp(), second = lane / 8 % 2, last = lane / 16;
  const int down = kDownFirst ? second : last, along = kDownFirst ? last : second;
  return tile + (row + down * 8 + lane % 8) * kPitch<kWidth> + column + along * 8;
}

// A thread's pieces of a tile of kCount tokens' rows: of the same columns of every
// kRowsAtOnce-th row. The tokens are looked up long before their rows are copied.
template <int kWidth, int kCount, typename T>
class Pieces {
 public:
  __device__ explicit Pieces(const Tokens& tokens) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) tokens_[i] = tokens[row() + i * kRowsAtOnce];
  }

  // Begins to copy them, zeros for those past the end, as `copy_async` does.
  __device__ void copy(T* to, Rows<const T> from, int width) const {
    const int d = static_cast<int>(threadIdx.x % kPieces) * kPiece;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const bool present = tokens_[i] >= 0 && d < width;
      copy_async<16>(to + (row() + i * kRowsAtOnce) * kPitch<kWidth> + d,
                     present ? from[tokens_[i]] + d : from.data, present);
    }
  }

 private:
  static constexpr int kPiece = 16 / sizeof(T), kPieces = kWidth / kPiece;
  static constexpr int kRowsAtOnce = kThreads / kPieces, kSteps = kCount / kRowsAtOnce;
  static_assert(kSteps * kRowsAtOnce == kCount);

  __device__ static int row() { return threadIdx.x / kPieces; }

  int tokens_[kSteps];
};

// The warp's rows of a tile as `multiply` takes them: held in registers, or loaded each time.
template <int kWidth, bool kHeld, typename T>
class RowsOperand {
 public:
  __device__ explicit RowsOperand(const T* tile) : tile_(tile) {
    if constexpr (kHeld) {
      __syncwarp();  // ldmatrix and mma want the warp together
#pragma unroll
      for (int step = 0; step < kWidth / 16; ++step) load(held_[step], step);
    }
  }
  // Columns 16 step to 16 step + 15.
  __device__ void get(uint32_t (&rows)[4], int step) const {
    if constexpr (kHeld) {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows[i] = held_[step][i];
    } else {
      load(rows, step);
    }
  }

 private:
  __device__ void load(uint32_t (&rows)[4], int step) const {
    load_matrices<false>(rows, matrix_row<kWidth, true>(tile_, first_row_of_warp(), 16 * step));
  }

  const T* tile_;
  uint32_t held_[kHeld ? kWidth / 16 : 1][4];
};

// out = the warp's rows `a` times all rows of tile `b`, transposed.
template <int kWidth, int kTile, bool kHeld, typename T>
__device__ void multiply(Sums<kTile>& out, const RowsOperand<kWidth, kHeld, T>& a, const T* b) {
  __syncwarp();  // ldmatrix and mma want the warp together
#pragma unroll
  for (auto& sum : out) {
    for (float& value : sum) value = 0;
  }
#pragma unroll
  for (int d = 0; d < kWidth; d += 16) {
    uint32_t rows[4];
    a.get(rows, d / 16);
#pragma unroll
    for (int n = 0; n < kTile / 8; n += 2) {
      uint32_t columns[4];
      load_matrices<false>(columns, matrix_row<kWidth, false>(b, n * 8, d));
      mma<T>(out[n], rows, columns[0], columns[1]);
      mma<T>(out[n + 1], rows, columns[2], columns[3]);
    }
  }
}

// sum += weights, one column for each row of tile `x`, times `x`.
template <int kWidth, int kTile, typename T>
__device__ void accumulate(Sums<kWidth>& sum, const Sums<kTile>& weights, const T* x) {
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kTile / 8; n += 2) {
    const uint32_t rows[4] = {pack<T>(weights[n][0], weights[n][1]),
                              pack<T>(weights[n][2], weights[n][3]),
                              pack<T>(weights[n + 1][0], weights[n + 1][1]),
                              pack<T>(weights[n + 1][2], weights[n + 1][3])};
#pragma unroll
    for (int d = 0; d < kWidth / 8; d += 2) {
      uint32_t columns[4];
      load_matrices<true>(columns, matrix_row<kWidth, true>(x, n * 8, d * 8));
      mma<T>(sum[d], rows, columns[0], columns[1]);
      mma<T>(sum[d + 1], rows, columns[2], columns[3]);
    }
  }
}

// Sets a tile's columns from `present` on.
template <int kTile>
__device__ void set_absent(Sums<kTile>& tile, int present, float value) {
  if (present >= kTile) return;
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) tile[n][i] = column_of(n, i) < present ? tile[n][i] : value;
  }
}

// Makes a product of rows and columns logits, those of columns from `present` on -infinity.
template <int kTile>
__device__ void finish_logits(Sums<kTile>& logits, float scale, int present) {
#pragma unroll
  for (auto& part : logits) {
#pragma unroll
    for (float& logit : part) logit *= scale;
  }
  set_absent<kTile>(logits, present, -INFINITY);
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

template <typename T>
__device__ float2 load_pair(const T* from) {
  const auto pair = *reinterpret_cast<const Vector<T, 2>*>(from);
  return make_float2(Element<T>::load(pair.values[0]), Element<T>::load(pair.values[1]));
}

template <typename T>
__device__ void store_pair(T* to, float first, float second) {
  *reinterpret_cast<uint32_t*>(to) = pack<T>(first, second);
}

// Columns of a tile: fewer where the width takes the registers, and where two products' sums lie
// beside each other and two tiles in shared memory.
template <int kWidth>
constexpr int kForwardTile = kWidth <= 64 ? 64 : 32;
template <int kWidth>
constexpr int kBackwardTile = kWidth <= 64 ? 32 : 16;
// Whether the backward has registers left for its rows; the forward has its tops there.
template <int kWidth>
constexpr bool kHoldsRows = kWidth <= 64;

// What grad_key_value knows of the queries that are its columns. Of those past the end all is zero,
// and so are their rows: they add nothing.
template <int kTile>
struct Columns {
  int top[kTile];
  float log_sum[kTile], delta[kTile], top_grad[kTile];
};

template <typename T, int kWidth>
constexpr size_t forward_shared_bytes() {
  return (kRows + 2 * kForwardTile<kWidth>)*kPitch<kWidth> * sizeof(T);
}

template <typename T, int kWidth>
constexpr size_t backward_shared_bytes() {
  return 2 * (kRows + 2 * kBackwardTile<kWidth>)*kPitch<kWidth> * sizeof(T) +
         2 * sizeof(Columns<kBackwardTile<kWidth>>);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Inputs<T> in, HeadRows<T> out_rows, float* log_sum, int* top) {
  constexpr int kTile = kForwardTile<kWidth>;
  T* const query = reinterpret_cast<T*>(dynamic_shared());
  T* const key = query + kRows * kPitch<kWidth>;
  T* const value = key + kTile * kPitch<kWidth>;
  const Place place(in.tokens, kRows);
  const Head<T> head(in, place.head);
  const bool with_eps = in.log_eps > -INFINITY;
  const float scale = kLog2E * in.scale;
  Pieces<kWidth, kRows, T>(Tokens{nullptr, place.first, in.tokens})
      .copy(query, head.query, in.width);
  // A tile of kept tokens; after those, for the largest logit of all, of the others.
  const int end = with_eps ? in.tokens : head.kept;
  const auto tile_at = [&](int first) {
    return Pieces<kWidth, kTile, T>(Tokens{head.order, first, first < head.kept ? head.kept : end});
  };
  auto next = tile_at(0);  // whose rows are to be copied next
  next.copy(key, head.key, in.width);
  const RowsOperand<kWidth, false, T> query_rows(query);

  Sums<kWidth> sum = {};
  float largest[2] = {-INFINITY, -INFINITY}, weight_sum[2] = {};
  Top<float> best[2];
  for (int first = 0; first < head.kept; first += kTile) {
    wait_for_copies();
    __syncthreads();  // the keys have come, and nobody reads values any more
    next.copy(value, head.value, in.width);
    next = tile_at(min(first + kTile, head.kept));
    Sums<kTile> weights;
    multiply<kWidth, kTile>(weights, query_rows, key);
    wait_for_copies();
    __syncthreads();  // the values have come, and nobody reads keys any more
    next.copy(key, head.key, in.width);
    finish_logits<kTile>(weights, scale, head.kept - first);
    if (with_eps) take_logits<kTile>(best, weights, first);
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
  next = tile_at(head.kept + kTile);
  for (int first = head.kept; first < end; first += kTile) {
    wait_for_copies();
    __syncthreads();  // the keys have come, and nobody reads those before any more
    next.copy(there, head.key, in.width);
    next = tile_at(first + 2 * kTile);
    Sums<kTile> logits;
    multiply<kWidth, kTile>(logits, query_rows, here);
    finish_logits<kTile>(logits, scale, end - first);
    take_logits<kTile>(best_dropped, logits, first);
    T* const free = here;
    here = there;
    there = free;
  }
  wait_for_copies();

  const Rows<T> out = head.rows(out_rows);
  const int lane = lane_of_warp() % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    for (Top<float>* top : {&best[half], &best_dropped[half]}) {
      if (top->token >= 0) top->token = head.order[top->token];
    }
    best[half].take(best_dropped[half].logit, best_dropped[half].token);
    best[half].template take_from_group<4>();
    const int row = min(place.first + row_of(2 * half), in.tokens - 1);
    constexpr int kPiece = 16 / sizeof(T);
    const bool is_kept = head.keep[row];
    const float own =
        scale * group_sum<4>(is_kept ? 0.0f
                                     : partial_dot<kPiece>(head.query[row], head.key[row], in.width,
                                                           lane, 4));
    const Parts<float> parts =
        join(natural(largest[half]), group_sum<4>(weight_sum[half]),
             is_kept ? -INFINITY : natural(own), natural(best[half].logit), in.log_eps);
    if (place.first + row_of(2 * half) >= in.tokens) continue;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const int d = column_of(n, 0);
      if (d < in.width) {
        const float2 own_value = load_pair(head.value[row] + d);
        const float* mean = head.mean_value + d;
        store_pair(
            out[row] + d,
            parts.kept * sum[n][2 * half] + parts.self * own_value.x + parts.uniform * mean[0],
            parts.kept * sum[n][2 * half + 1] + parts.self * own_value.y + parts.uniform * mean[1]);
      }
    }
    if (lane == 0) {
      log_sum[head.first_row + row] = parts.log_sum;
      top[head.first_row + row] = best[half].token;
    }
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, 3)
    grad_query_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows, const float* log_sum,
                      const int* top, RowTerms<float> terms, HeadRows<T> grad_query_rows) {
  constexpr int kTile = kBackwardTile<kWidth>, kTileSize = kTile * kPitch<kWidth>;
  T* const query = reinterpret_cast<T*>(dynamic_shared());
  T* const grad_out = query + kRows * kPitch<kWidth>;
  T* const keys = grad_out + kRows * kPitch<kWidth>;  // two tiles
  T* const values = keys + 2 * kTileSize;             // two tiles
  const Place place(in.tokens, kRows);
  const Head<T> head(in, place.head);
  const Pieces<kWidth, kRows, T> rows(Tokens{nullptr, place.first, in.tokens});
  rows.copy(query, head.query, in.width);
  rows.copy(grad_out, head.rows(grad_out_rows), in.width);
  const auto tile_at = [&](int first) {
    return Pieces<kWidth, kTile, T>(Tokens{head.order, first, head.kept});
  };
  auto next = tile_at(0);
  next.copy(keys, head.key, in.width);
  next.copy(values, head.value, in.width);
  next = tile_at(kTile);
  const float scale = kLog2E * in.scale;
  float row_log_sum[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(place.first + row_of(2 * half), in.tokens - 1);
    row_log_sum[half] = kLog2E * log_sum[head.first_row + row];
    delta[half] = terms.delta[head.first_row + row];
  }
  wait_for_copies();
  __syncthreads();
  const RowsOperand<kWidth, kHoldsRows<kWidth>, T> held_query(query), held_grad_out(grad_out);

  Sums<kWidth> sum = {};
  for (int first = 0, stage = 0; first < head.kept; first += kTile, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // the tiles have come, and nobody reads those before any more
    next.copy(keys + (stage ^ 1) * kTileSize, head.key, in.width);
    next.copy(values + (stage ^ 1) * kTileSize, head.value, in.width);
    next = tile_at(first + 2 * kTile);
    const T *key = keys + stage * kTileSize, *value = values + stage * kTileSize;
    Sums<kTile> weights, grad_weights;
    multiply<kWidth, kTile>(weights, held_query, key);
    multiply<kWidth, kTile>(grad_weights, held_grad_out, value);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[n][i] = fast_exp2(weights[n][i] * scale - row_log_sum[i / 2]) *
                        (grad_weights[n][i] - delta[i / 2]);
      }
    }
    set_absent<kTile>(weights, head.kept - first, 0);
    accumulate<kWidth, kTile>(sum, weights, key);
  }
  wait_for_copies();

  const Rows<T> grad_query = head.rows(grad_query_rows);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = place.first + row_of(2 * half);
    if (row >= in.tokens) continue;
    const float self_grad = terms.self_grad[head.first_row + row];
    const float top_grad = terms.top_grad[head.first_row + row];
    // Without eps nothing has a gradient there, and a dropped key may be anything.
    const int top_token = top[head.first_row + row] >= 0 ? top[head.first_row + row] : row;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const int d = column_of(n, 0);
      if (d < in.width) {
        const float2 own = load_pair(head.key[row] + d);
        const float2 largest = load_pair(head.key[top_token] + d);
        store_pair(grad_query[row] + d,
                   in.scale * (sum[n][2 * half] + self_grad * own.x + top_grad * largest.x),
                   in.scale * (sum[n][2 * half + 1] + self_grad * own.y + top_grad * largest.y));
      }
    }
  }
}

// Rows of the tile are kept tokens, as keys and values; columns are all tokens, as queries.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    grad_key_value_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows, const float* log_sum,
                          const int* top, RowTerms<float> terms, const float* grad_mean,
                          HeadRows<T> grad_key_rows, HeadRows<T> grad_value_rows) {
  constexpr int kTile = kBackwardTile<kWidth>, kTileSize = kTile * kPitch<kWidth>;
  T* const key = reinterpret_cast<T*>(dynamic_shared());
  T* const value = key + kRows * kPitch<kWidth>;
  T* const queries = value + kRows * kPitch<kWidth>;                                   // two tiles
  T* const grads_out = queries + 2 * kTileSize;                                        // two tiles
  auto* const columns = reinterpret_cast<Columns<kTile>*>(grads_out + 2 * kTileSize);  // of both
  const Place place(in.tokens, kRows);
  const Head<T> head(in, place.head);
  if (place.first >= head.kept) return;
  const float scale = kLog2E * in.scale;
  const Tokens rows{head.order, place.first, head.kept};
  const Pieces<kWidth, kRows, T> row_pieces(rows);
  row_pieces.copy(key, head.key, in.width);
  row_pieces.copy(value, head.value, in.width);
  const int row_token[2] = {rows[row_of(0)], rows[row_of(2)]};
  // Of the four arrays of columns, a thread copies one element.
  static_assert(4 * kTile <= kThreads);
  const int column = threadIdx.x % kTile, part = threadIdx.x / kTile;
  const int* const column_part = (part == 0   ? top
                                  : part == 1 ? reinterpret_cast<const int*>(log_sum)
                                  : part == 2 ? reinterpret_cast<const int*>(terms.delta)
                                              : reinterpret_cast<const int*>(terms.top_grad)) +
                                 head.first_row + min(column, in.tokens - 1);
  const auto copy_tile = [&](int first, int stage) {
    const Pieces<kWidth, kTile, T> pieces(Tokens{nullptr, first, in.tokens});
    pieces.copy(queries + stage * kTileSize, head.query, in.width);
    pieces.copy(grads_out + stage * kTileSize, head.rows(grad_out_rows), in.width);
    if (part < 4) {
      const bool present = first + column < in.tokens;
      copy_async<4>(reinterpret_cast<int*>(columns + stage) + threadIdx.x,
                    column_part + (present ? first : 0), present);
    }
  };
  copy_tile(0, 0);
  wait_for_copies();
  __syncthreads();
  const RowsOperand<kWidth, kHoldsRows<kWidth>, T> held_key(key), held_value(value);

  Sums<kWidth> key_sum = {}, value_sum = {};
  for (int first = 0, stage = 0; first < in.tokens; first += kTile, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // the tiles have come, and nobody reads those before any more
    copy_tile(first + kTile, stage ^ 1);
    const T *query = queries + stage * kTileSize, *grad_out = grads_out + stage * kTileSize;
    const Columns<kTile>& of = columns[stage];
    Sums<kTile> weights, grad_logits;
    multiply<kWidth, kTile>(weights, held_key, query);
    multiply<kWidth, kTile>(grad_logits, held_value, grad_out);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = column_of(n, i);
        const float weight = fast_exp2(weights[n][i] * scale - kLog2E * of.log_sum[column]);
        const float top_grad = of.top[column] == row_token[i / 2] ? of.top_grad[column] : 0.0f;
        weights[n][i] = weight;
        grad_logits[n][i] = weight * (grad_logits[n][i] - of.delta[column]) + top_grad;
      }
    }
    accumulate<kWidth, kTile>(value_sum, weights, grad_out);
    accumulate<kWidth, kTile>(key_sum, grad_logits, query);
  }
  wait_for_copies();

  const Rows<T> grad_key = head.rows(grad_key_rows), grad_value = head.rows(grad_value_rows);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = row_token[half];
    if (token < 0) continue;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const int d = column_of(n, 0);
      if (d < in.width) {
        const float* mean = grad_mean + place.head * in.width + d;
        store_pair(grad_key[token] + d, in.scale * key_sum[n][2 * half],
                   in.scale * key_sum[n][2 * half + 1]);
        store_pair(grad_value[token] + d, value_sum[n][2 * half] + mean[0],
                   value_sum[n][2 * half + 1] + mean[1]);
      }
    }
  }
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
    launch(name, forward_kernel<T, kWidth>, tiles_of(args.query, kRows), kThreads,
           forward_shared_bytes<T, kWidth>(), stream, in, HeadRows<T>(args.out),
           args.log_sum.as<float>(), args.top.as<int>());
  });
}

template <typename T>
void launch_backward(const char* name, const Inputs<T>& in, const MaskedReattentionBackward& args,
                     const Scratch<typename Element<T>::Accumulator>& scratch, Stream stream) {
  with_width(in.width, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
    launch_gradients(name, grad_query_kernel<T, kWidth>, grad_key_value_kernel<T, kWidth>,
                     tiles_of(args.query, kRows), backward_shared_bytes<T, kWidth>(), in, args,
                     scratch, stream);
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
