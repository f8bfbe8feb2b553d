// The kernels of masked_reattention for half types on tensor cores, widths up to 128 in whole
// 16-byte pieces.
//
// A block owns a tile of 64 rows of one (image, head), a warp 16 of them: queries, or, for the
// keys' gradients, kept keys. It passes over the other side in tiles of kTile columns. Operands lie
// in shared memory, rows 16 bytes longer than they are wide, so that the eight rows of a matrix
// that ldmatrix reads lie in different banks; past the width they are zero. Logits, weights and
// sums stay in registers: a product's result is the next one's operand as it lies.
#include <type_traits>

#include "attention/masked_reattention.cuh"
#include "core/mma.cuh"

namespace wsol::cuda::reattention {
namespace {

constexpr int kRowsPerWarp = 16;
constexpr int kRows = kWarps * kRowsPerWarp;

template <int kWidth>
constexpr int kPitch = kWidth + 8;

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

// Copies the rows of kCount tokens, zeros for those past the end.
template <int kWidth, int kCount, typename T>
__device__ void load_tile(T* to, Rows<const T> from, const Tokens& tokens, int width) {
  constexpr int kPiece = 16 / sizeof(T), kPieces = kWidth / kPiece;
  for (int i = threadIdx.x; i < kCount * kPieces; i += kThreads) {
    const int row = i / kPieces, d = i % kPieces * kPiece, token = tokens[row];
    uint4 piece = make_uint4(0, 0, 0, 0);
    if (token >= 0 && d < width) piece = *reinterpret_cast<const uint4*>(from[token] + d);
    *reinterpret_cast<uint4*>(to + row * kPitch<kWidth> + d) = piece;
  }
}

// out = the warp's rows of tile `a` times all rows of tile `b`, transposed.
template <int kWidth, int kTile, typename T>
__device__ void multiply(Sums<kTile>& out, const T* a, const T* b) {
#pragma unroll
  for (auto& sum : out) {
    for (float& value : sum) value = 0;
  }
#pragma unroll
  for (int d = 0; d < kWidth; d += 16) {
    uint32_t rows[4];
    load_matrices<false>(rows, matrix_row<kWidth, true>(a, first_row_of_warp(), d));
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

// Makes a product of rows and columns logits, those of columns from `present` on -infinity.
template <int kTile>
__device__ void finish_logits(Sums<kTile>& logits, float scale, int present) {
#pragma unroll
  for (auto& part : logits) {
#pragma unroll
    for (float& logit : part) logit *= scale;
  }
  if (present >= kTile) return;
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) logits[n][i] = column_of(n, i) < present ? logits[n][i] : -INFINITY;
  }
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

constexpr int kForwardTile = 64;
// Two products' sums beside each other: fewer columns where the width takes the registers.
template <int kWidth>
constexpr int kBackwardTile = kWidth <= 64 ? 64 : 32;

template <typename T, int kWidth>
constexpr size_t forward_shared_bytes() {
  return (kRows + 2 * kForwardTile) * kPitch<kWidth> * sizeof(T);
}

template <typename T, int kWidth>
constexpr size_t backward_shared_bytes() {
  constexpr int kTile = kBackwardTile<kWidth>;
  return 2 * (kRows + kTile) * kPitch<kWidth> * sizeof(T) + 4 * kTile * sizeof(int);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Inputs<T> in, HeadRows<T> out_rows, float* log_sum, int* top) {
  constexpr int kTile = kForwardTile;
  T* const query = reinterpret_cast<T*>(dynamic_shared());
  T* const key = query + kRows * kPitch<kWidth>;
  T* const value = key + kTile * kPitch<kWidth>;
  const Place place(in.tokens, kRows);
  const Head<T> head(in, place.head);
  const bool with_eps = in.log_eps > -INFINITY;
  load_tile<kWidth, kRows>(query, head.query, Tokens{nullptr, place.first, in.tokens}, in.width);

  Sums<kWidth> sum = {};
  float largest[2] = {-INFINITY, -INFINITY}, weight_sum[2] = {};
  Top<float> best[2];
  for (int first = 0; first < head.kept; first += kTile) {
    __syncthreads();
    const Tokens columns{head.order, first, head.kept};
    load_tile<kWidth, kTile>(key, head.key, columns, in.width);
    load_tile<kWidth, kTile>(value, head.value, columns, in.width);
    __syncthreads();
    Sums<kTile> weights;
    multiply<kWidth, kTile>(weights, query, key);
    finish_logits<kTile>(weights, in.scale, head.kept - first);
    if (with_eps) take_logits<kTile>(best, weights, first);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float here = largest[half];
#pragma unroll
      for (const auto& part : weights) here = max(here, max(part[2 * half], part[2 * half + 1]));
      here = group_max<4>(here);
      const float factor = __expf(largest[half] - here);
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
          part[i] = __expf(part[i] - here);
          weight_sum[half] += part[i];
        }
      }
    }
    accumulate<kWidth, kTile>(sum, weights, value);
  }
  // For the largest logit of all, the others.
  Top<float> best_dropped[2];
  for (int first = with_eps ? head.kept : in.tokens; first < in.tokens; first += kTile) {
    __syncthreads();
    load_tile<kWidth, kTile>(key, head.key, Tokens{head.order, first, in.tokens}, in.width);
    __syncthreads();
    Sums<kTile> logits;
    multiply<kWidth, kTile>(logits, query, key);
    finish_logits<kTile>(logits, in.scale, in.tokens - first);
    take_logits<kTile>(best_dropped, logits, first);
  }

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
    const float own = in.scale * group_sum<4>(partial_dot<kPiece>(head.query[row], head.key[row],
                                                                  in.width, lane, 4));
    const Parts<float> parts = join(largest[half], group_sum<4>(weight_sum[half]),
                                    head.keep[row] ? -INFINITY : own, best[half].logit, in.log_eps);
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
__global__ void __launch_bounds__(kThreads)
    grad_query_kernel(Inputs<T> in, HeadRows<const T> grad_out_rows, const float* log_sum,
                      const int* top, RowTerms<float> terms, HeadRows<T> grad_query_rows) {
  constexpr int kTile = kBackwardTile<kWidth>;
  T* const query = reinterpret_cast<T*>(dynamic_shared());
  T* const grad_out = query + kRows * kPitch<kWidth>;
  T* const key = grad_out + kRows * kPitch<kWidth>;
  T* const value = key + kTile * kPitch<kWidth>;
  const Place place(in.tokens, kRows);
  const Head<T> head(in, place.head);
  const Tokens rows{nullptr, place.first, in.tokens};
  load_tile<kWidth, kRows>(query, head.query, rows, in.width);
  load_tile<kWidth, kRows>(grad_out, head.rows(grad_out_rows), rows, in.width);
  float row_log_sum[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(place.first + row_of(2 * half), in.tokens - 1);
    row_log_sum[half] = log_sum[head.first_row + row];
    delta[half] = terms.delta[head.first_row + row];
  }

  Sums<kWidth> sum = {};
  for (int first = 0; first < head.kept; first += kTile) {
    __syncthreads();
    const Tokens columns{head.order, first, head.kept};
    load_tile<kWidth, kTile>(key, head.key, columns, in.width);
    load_tile<kWidth, kTile>(value, head.value, columns, in.width);
    __syncthreads();
    Sums<kTile> weights, grad_weights;
    multiply<kWidth, kTile>(weights, query, key);
    multiply<kWidth, kTile>(grad_weights, grad_out, value);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float weight = __expf(weights[n][i] * in.scale - row_log_sum[i / 2]);
        const bool present = first + column_of(n, i) < head.kept;
        weights[n][i] = present ? weight * (grad_weights[n][i] - delta[i / 2]) : 0.0f;
      }
    }
    accumulate<kWidth, kTile>(sum, weights, key);
  }

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
  constexpr int kTile = kBackwardTile<kWidth>;
  T* const key = reinterpret_cast<T*>(dynamic_shared());
  T* const value = key + kRows * kPitch<kWidth>;
  T* const query = value + kRows * kPitch<kWidth>;
  T* const grad_out = query + kTile * kPitch<kWidth>;
  // Of each column.
  int* const column_top = reinterpret_cast<int*>(grad_out + kTile * kPitch<kWidth>);
  float* const column_log_sum = reinterpret_cast<float*>(column_top + kTile);
  float* const column_delta = column_log_sum + kTile;
  float* const column_top_grad = column_delta + kTile;
  const Place place(in.tokens, kRows);
  const Head<T> head(in, place.head);
  if (place.first >= head.kept) return;
  const Tokens rows{head.order, place.first, head.kept};
  load_tile<kWidth, kRows>(key, head.key, rows, in.width);
  load_tile<kWidth, kRows>(value, head.value, rows, in.width);
  const int row_token[2] = {rows[row_of(0)], rows[row_of(2)]};

  Sums<kWidth> key_sum = {}, value_sum = {};
  for (int first = 0; first < in.tokens; first += kTile) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTile; i += kThreads) {
      const bool present = first + i < in.tokens;
      const int64_t row = head.first_row + first + i;
      column_top[i] = present ? top[row] : -1;
      column_log_sum[i] = present ? log_sum[row] : INFINITY;  // so that its weights are zero
      column_delta[i] = present ? terms.delta[row] : 0;
      column_top_grad[i] = present ? terms.top_grad[row] : 0;
    }
    const Tokens columns{nullptr, first, in.tokens};
    load_tile<kWidth, kTile>(query, head.query, columns, in.width);
    load_tile<kWidth, kTile>(grad_out, head.rows(grad_out_rows), columns, in.width);
    __syncthreads();
    Sums<kTile> weights, grad_logits;
    multiply<kWidth, kTile>(weights, key, query);
    multiply<kWidth, kTile>(grad_logits, value, grad_out);
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = column_of(n, i);
        const float weight = __expf(weights[n][i] * in.scale - column_log_sum[column]);
        const float top_grad =
            column_top[column] == row_token[i / 2] ? column_top_grad[column] : 0.0f;
        weights[n][i] = weight;
        grad_logits[n][i] = weight * (grad_logits[n][i] - column_delta[column]) + top_grad;
      }
    }
    accumulate<kWidth, kTile>(value_sum, weights, grad_out);
    accumulate<kWidth, kTile>(key_sum, grad_logits, query);
  }

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
