// CPU: one task a (image, head), or, forward, of few heads a range of their queries. Its tokens are
// copied once with the kept ones first, so that what is attended to is one dense matrix; then
// blocks of queries go through products of matrices in cache. Logits lie transposed, (key, query):
// a lane is a query, so maxima and sums over keys need no horizontal step. Limited by the products.
//
// A block's logits are tokens x kQueries numbers a thread; nothing else grows faster than N D.
#include "attention/masked_reattention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "attention/head_rows.h"
#include "core/element_types.h"
#include "core/exp.h"
#include "core/matrix_product.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kProductsOfATask = 1 << 20;  // some ten microseconds: enough to wake a thread for
constexpr int64_t kQueries = 64;  // of a block: a multiple of every Tiling's rows and lanes

int64_t round_up(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// An image's tokens in scratch: kept ones first, dropped ones after them. Both parts are padded to
// whole tiles, with zeros.
struct Order {
  int64_t kept, kept_rows, rows;
  std::vector<int64_t> row_of;  // by token

  Order(const bool* keep, int64_t tokens, int64_t tile_rows) : row_of(tokens) {
    kept = std::count(keep, keep + tokens, true);
    kept_rows = round_up(kept, tile_rows);
    rows = kept_rows + round_up(tokens - kept, tile_rows);
    int64_t next_kept = 0, next_dropped = kept_rows;
    for (int64_t token = 0; token < tokens; ++token) {
      row_of[token] = keep[token] ? next_kept++ : next_dropped++;
    }
  }
  int64_t tokens() const { return static_cast<int64_t>(row_of.size()); }
  bool is_dropped(int64_t token) const { return row_of[token] >= kept_rows; }
};

// Hands out parts of one thread's memory.
template <typename A>
class Scratch {
 public:
  explicit Scratch(A* memory) : next_(memory) {}
  A* take(int64_t count) { return std::exchange(next_, next_ + count); }

 private:
  A* next_;
};

template <typename A>
inline A dot(const A* a, const A* b, int64_t width) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < width; ++d) sum += a[d] * b[d];
  return sum;
}

template <typename A>
inline void add_scaled(A factor, const A* x, A* y, int64_t width) {
#pragma omp simd
  for (int64_t d = 0; d < width; ++d) y[d] += factor * x[d];
}

// Rows of a head in scratch, `padded` numbers each.
template <typename A>
inline void load_tokens(Rows<A> from, const Order& order, int64_t width, int64_t padded, A* to) {
  std::fill(to, to + order.rows * padded, A(0));
  for (int64_t token = 0; token < order.tokens(); ++token) {
    std::copy_n(from[token], width, to + order.row_of[token] * padded);
  }
}

// `count` queries, or their gradients, times `factor`: as rows, and transposed with kQueries to a
// row, of which those up to `lanes` are read. What is missing to `lanes` is zero.
template <typename Tile, typename A = typename Tile::Element>
inline void load_queries(Rows<A> from, int64_t first, int64_t count, int64_t lanes, A factor,
                         int64_t width, int64_t padded, A* rows, A* transposed) {
  if (count < lanes) {  // whole vectors of zeros, into which queries come
    for (int64_t d = 0; d < width; ++d) {
      Tile::at(transposed + d * kQueries + lanes - Tile::kLanes) = typename Tile::Vector{};
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const A* source = from[first + i];
    A* row = rows + i * padded;
    for (int64_t d = 0; d < width; ++d) row[d] = factor * source[d];
    std::fill(row + width, row + padded, A(0));
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < width; ++d) transposed[d * kQueries + i] = rows[i * padded + d];
  }
}

template <typename A>
inline void mean_of_rows(Rows<A> from, int64_t tokens, int64_t width, A* mean) {
  std::fill(mean, mean + width, A(0));
  for (int64_t token = 0; token < tokens; ++token) add_scaled(A(1), from[token], mean, width);
  for (int64_t d = 0; d < width; ++d) mean[d] /= static_cast<A>(tokens);
}

// Raises `largest` to each query's largest logit, and gives that one's first token (as an A, so
// that lanes are alike); a NaN is larger than any number.
template <typename A>
inline void largest_logits(const A* logits, const Order& order, bool of_kept_only, int64_t lanes,
                           A* largest, A* first) {
  for (int64_t token = 0; token < order.tokens(); ++token) {
    if (of_kept_only && order.is_dropped(token)) continue;
    const A* row = logits + order.row_of[token] * kQueries;
    const A here = static_cast<A>(token);
#pragma omp simd
    for (int64_t i = 0; i < lanes; ++i) {
      const bool better = (row[i] > largest[i]) | (row[i] != row[i]);
      largest[i] = better ? row[i] : largest[i];
      first[i] = better ? here : first[i];
    }
  }
}

// Logits become exp(logit - shift); their sums over keys are added to `sums`.
template <typename A>
inline void exponentials(A* logits, int64_t keys, int64_t lanes, const A* shift, A* sums) {
  for (int64_t key = 0; key < keys; ++key) {
    A* row = logits + key * kQueries;
#pragma omp simd
    for (int64_t i = 0; i < lanes; ++i) {
      row[i] = exp_of_nonpositive(row[i] - shift[i]);
      sums[i] += row[i];
    }
  }
}

// Logits become softmax weights, and the weights' gradients those of the logits:
// weight * (gradient - sum_j weight_j gradient_j), a sum of which `expected` holds the other terms.
template <typename A>
inline void softmax_gradients(A* logits, A* gradients, int64_t keys, int64_t lanes,
                              const A* log_sum, A* expected) {
  for (int64_t key = 0; key < keys; ++key) {
    A* weight = logits + key * kQueries;
    const A* gradient = gradients + key * kQueries;
#pragma omp simd
    for (int64_t i = 0; i < lanes; ++i) {
      weight[i] = exp_of_nonpositive(weight[i] - log_sum[i]);
      expected[i] += weight[i] * gradient[i];
    }
  }
  for (int64_t key = 0; key < keys; ++key) {
    const A* weight = logits + key * kQueries;
    A* gradient = gradients + key * kQueries;
#pragma omp simd
    for (int64_t i = 0; i < lanes; ++i) gradient[i] = weight[i] * (gradient[i] - expected[i]);
  }
}

template <typename A>
struct ForwardHead {
  Rows<A> query, key, value, out;
  A* log_sum;
  int32_t* top;
  int64_t width;
  A scale, eps;
};

template <typename A>
int64_t forward_scratch(int64_t rows, int64_t padded) {
  return (2 * rows + 3 * kQueries + 1) * padded + rows * kQueries;
}

template <typename Tile, typename A = typename Tile::Element>
void head_forward(const ForwardHead<A>& head, const Order& order, int64_t first_query,
                  int64_t last_query, Scratch<A> scratch) {
  const int64_t width = head.width, padded = round_up(width, Tile::kLanes);
  A* key = scratch.take(order.rows * padded);
  A* value = scratch.take(order.rows * padded);
  A* logits = scratch.take(order.rows * kQueries);
  A* query = scratch.take(kQueries * padded);
  A* query_transposed = scratch.take(kQueries * padded);
  A* sums = scratch.take(kQueries * padded);
  A* mean_value = scratch.take(padded);
  load_tokens(head.key, order, width, padded, key);
  load_tokens(head.value, order, width, padded, value);
  mean_of_rows(head.value, order.tokens(), width, mean_value);

  for (int64_t begin = first_query; begin < last_query; begin += kQueries) {
    const int64_t count = std::min(kQueries, last_query - begin);
    const int64_t lanes = round_up(count, Tile::kLanes);
    load_queries<Tile>(head.query, begin, count, lanes, head.scale, width, padded, query,
                       query_transposed);
    // With eps = 0 nothing asks for the logits of dropped keys.
    const bool of_kept_only = head.eps == 0;
    multiply<Tile>(of_kept_only ? order.kept_rows : order.rows, lanes, width, {key, padded, 1},
                   query_transposed, kQueries, logits, kQueries);

    A self[kQueries], largest[kQueries], first[kQueries] = {}, total[kQueries];
    for (int64_t i = 0; i < lanes; ++i) {
      self[i] = -std::numeric_limits<A>::infinity();
      if (i < count && order.is_dropped(begin + i)) {
        self[i] = dot(query + i * padded, key + order.row_of[begin + i] * padded, width);
      }
      largest[i] = of_kept_only ? self[i] : -std::numeric_limits<A>::infinity();
    }
    largest_logits(logits, order, of_kept_only, lanes, largest, first);
    for (int64_t i = 0; i < lanes; ++i) {
      self[i] = std::exp(self[i] - largest[i]);
      total[i] = self[i] + head.eps;
    }
    exponentials(logits, order.kept, lanes, largest, total);
    multiply<Tile>(round_up(count, Tile::kRows), padded, order.kept, {logits, 1, kQueries}, value,
                   padded, sums, padded);

    for (int64_t i = 0; i < count; ++i) {
      A* row = sums + i * padded;
      add_scaled(self[i], head.value[begin + i], row, width);
      if (head.eps > 0) add_scaled(head.eps, mean_value, row, width);
      const A factor = A(1) / total[i];
      for (int64_t d = 0; d < width; ++d) head.out[begin + i][d] = row[d] * factor;
      if (head.log_sum == nullptr) continue;  // nobody will ask for a gradient
      head.log_sum[begin + i] = largest[i] + std::log(total[i]);
      head.top[begin + i] = of_kept_only ? -1 : static_cast<int32_t>(first[i]);
    }
  }
}

template <typename A>
struct BackwardHead {
  Rows<A> query, key, value, grad_out, grad_query, grad_key, grad_value;
  const A* log_sum;
  const int32_t* top;
  int64_t width;
  A scale, eps;
};

template <typename A>
int64_t backward_scratch(int64_t rows, int64_t padded) {
  return (4 * rows + 5 * kQueries + 2) * padded + 2 * rows * kQueries;
}

template <typename Tile, typename A = typename Tile::Element>
void head_backward(const BackwardHead<A>& head, const Order& order, Scratch<A> scratch) {
  const int64_t tokens = order.tokens();
  const int64_t width = head.width, padded = round_up(width, Tile::kLanes);
  A* key = scratch.take(order.rows * padded);
  A* value = scratch.take(order.rows * padded);
  A* key_sums = scratch.take(order.rows * padded);
  A* value_sums = scratch.take(order.rows * padded);
  A* weights = scratch.take(order.kept_rows * kQueries);
  A* grad_logits = scratch.take(order.kept_rows * kQueries);
  A* query = scratch.take(kQueries * padded);
  A* query_transposed = scratch.take(kQueries * padded);
  A* grad = scratch.take(kQueries * padded);
  A* grad_transposed = scratch.take(kQueries * padded);
  A* query_sums = scratch.take(kQueries * padded);
  A* mean_value = scratch.take(padded);
  A* grad_mean_value = scratch.take(padded);
  load_tokens(head.key, order, width, padded, key);
  load_tokens(head.value, order, width, padded, value);
  mean_of_rows(head.value, tokens, width, mean_value);
  std::fill(key_sums, key_sums + order.rows * padded, A(0));
  std::fill(value_sums, value_sums + order.rows * padded, A(0));
  std::fill(grad_mean_value, grad_mean_value + padded, A(0));
  const A log_eps = std::log(head.eps);
  const bool query_wanted = head.grad_query.data != nullptr;
  const bool key_wanted = head.grad_key.data != nullptr;
  const bool value_wanted = head.grad_value.data != nullptr;

  for (int64_t begin = 0; begin < tokens; begin += kQueries) {
    const int64_t count = std::min(kQueries, tokens - begin);
    const int64_t lanes = round_up(count, Tile::kLanes);
    load_queries<Tile>(head.query, begin, count, lanes, head.scale, width, padded, query,
                       query_transposed);
    load_queries<Tile>(head.grad_out, begin, count, lanes, A(1), width, padded, grad,
                       grad_transposed);
    multiply<Tile>(order.kept_rows, lanes, width, {key, padded, 1}, query_transposed, kQueries,
                   weights, kQueries);
    multiply<Tile>(order.kept_rows, lanes, width, {value, padded, 1}, grad_transposed, kQueries,
                   grad_logits, kQueries);

    // A query's weights beside those of the kept keys: of itself where it is dropped, and of eps.
    A log_sum[kQueries] = {}, self[kQueries] = {}, rest[kQueries] = {};
    A grad_self[kQueries] = {}, grad_rest[kQueries] = {}, expected[kQueries] = {};
    for (int64_t i = 0; i < count; ++i) {
      const A* q = query + i * padded;
      const A* g = grad + i * padded;
      log_sum[i] = head.log_sum[begin + i];
      if (order.is_dropped(begin + i)) {
        const int64_t row = order.row_of[begin + i] * padded;
        self[i] = std::exp(dot(q, key + row, width) - log_sum[i]);
        grad_self[i] = dot(g, value + row, width);
      }
      if (head.eps > 0) {
        const A* top_key = key + order.row_of[head.top[begin + i]] * padded;
        rest[i] = std::exp(dot(q, top_key, width) - log_sum[i] + log_eps);
        grad_rest[i] = dot(g, mean_value, width);
      }
      expected[i] = self[i] * grad_self[i] + rest[i] * grad_rest[i];
    }
    softmax_gradients(weights, grad_logits, order.kept, lanes, log_sum, expected);

    if (query_wanted) {
      multiply<Tile>(round_up(count, Tile::kRows), padded, order.kept, {grad_logits, 1, kQueries},
                     key, padded, query_sums, padded);
    }
    if (key_wanted) {
      multiply<Tile, true>(order.kept_rows, padded, count, {grad_logits, kQueries, 1}, query,
                           padded, key_sums, padded);
    }
    if (value_wanted) {
      multiply<Tile, true>(order.kept_rows, padded, count, {weights, kQueries, 1}, grad, padded,
                           value_sums, padded);
    }

    for (int64_t i = 0; i < count; ++i) {
      const A* q = query + i * padded;
      const A* g = grad + i * padded;
      A* query_sum = query_sums + i * padded;
      if (order.is_dropped(begin + i)) {
        const int64_t row = order.row_of[begin + i] * padded;
        const A grad_logit = self[i] * (grad_self[i] - expected[i]);
        add_scaled(grad_logit, key + row, query_sum, width);
        add_scaled(grad_logit, q, key_sums + row, width);
        add_scaled(self[i], g, value_sums + row, width);
      }
      if (head.eps > 0) {
        const int64_t row = order.row_of[head.top[begin + i]] * padded;
        const A grad_logit = rest[i] * (grad_rest[i] - expected[i]);
        add_scaled(grad_logit, key + row, query_sum, width);
        add_scaled(grad_logit, q, key_sums + row, width);
        add_scaled(rest[i], g, grad_mean_value, width);
      }
      for (int64_t d = 0; query_wanted && d < width; ++d) {
        head.grad_query[begin + i][d] = head.scale * query_sum[d];
      }
    }
  }
  const A per_token = A(1) / static_cast<A>(tokens);
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t row = order.row_of[token] * padded;
    if (key_wanted) std::copy_n(key_sums + row, width, head.grad_key[token]);
    if (!value_wanted) continue;
    add_scaled(per_token, grad_mean_value, value_sums + row, width);
    std::copy_n(value_sums + row, width, head.grad_value[token]);
  }
}

// Calls `run` with a Tiling, for each part of each head, on several threads.
template <typename A, typename Run>
void for_each_head(const TensorView& query, const TensorView& keep, int threads, int64_t parts,
                   int64_t (*scratch_of)(int64_t rows, int64_t padded), const Run& run) {
  const int64_t heads = query.size(1), tokens = query.size(2), width = query.size(3);
  const int64_t products = 2 * tokens * tokens * width / parts;
  const int64_t grain = std::max<int64_t>(1, kProductsOfATask / products);
  parallel_for(query.size(0) * heads * parts, grain, threads, [&](int64_t begin, int64_t end) {
    with_vectors([&]<int kBytes>() {
      using Tile = Tiling<A, kBytes>;
      // The most rows that an order has: either part may end in an unfinished tile.
      const int64_t rows = round_up(tokens, Tile::kRows) + Tile::kRows;
      const std::unique_ptr<A[]> memory(new A[scratch_of(rows, round_up(width, Tile::kLanes))]);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / parts / heads, head = task / parts % heads;
        const Order order(keep.as<bool>() + image * tokens, tokens, Tile::kRows);
        run.template operator()<Tile>(image, head, task % parts, order, Scratch<A>(memory.get()));
      }
    });
  });
}

}  // namespace

void masked_reattention_forward(const MaskedReattentionForward& args, int threads) {
  with_float_or_double("masked_reattention", args.query.dtype, [&]<typename A>(ElementTag<A>) {
    const int64_t heads = args.query.size(1), tokens = args.query.size(2);
    // Of few heads, parts even the threads out. A block of queries is the same in any part.
    const int64_t blocks = (tokens + kQueries - 1) / kQueries,
                  all_heads = args.query.size(0) * heads;
    const int64_t parts = std::clamp<int64_t>(4 * (threads - 1) / all_heads, 1, blocks);
    const auto saved = [](auto* data, int64_t first) { return data ? data + first : nullptr; };
    for_each_head<A>(args.query, args.keep, threads, parts, forward_scratch<A>,
                     [&]<typename Tile>(int64_t image, int64_t head, int64_t part,
                                        const Order& order, Scratch<A> scratch) {
                       const int64_t first = (image * heads + head) * tokens;
                       const int64_t begin = part * blocks / parts * kQueries;
                       const int64_t end = std::min(tokens, (part + 1) * blocks / parts * kQueries);
                       head_forward<Tile>({{args.query, image, head},
                                           {args.key, image, head},
                                           {args.value, image, head},
                                           {args.out, image, head},
                                           saved(args.log_sum.as<A>(), first),
                                           saved(args.top.as<int32_t>(), first),
                                           args.query.size(3),
                                           static_cast<A>(args.scale),
                                           static_cast<A>(args.eps)},
                                          order, begin, end, scratch);
                     });
  });
}

void masked_reattention_backward(const MaskedReattentionBackward& args, int threads) {
  with_float_or_double("masked_reattention", args.query.dtype, [&]<typename A>(ElementTag<A>) {
    const int64_t heads = args.query.size(1), tokens = args.query.size(2);
    for_each_head<A>(args.query, args.keep, threads, 1, backward_scratch<A>,
                     [&]<typename Tile>(int64_t image, int64_t head, int64_t, const Order& order,
                                        Scratch<A> scratch) {
                       const int64_t first = (image * heads + head) * tokens;
                       head_backward<Tile>({{args.query, image, head},
                                            {args.key, image, head},
                                            {args.value, image, head},
                                            {args.grad_out, image, head},
                                            {args.grad_query, image, head},
                                            {args.grad_key, image, head},
                                            {args.grad_value, image, head},
                                            args.log_sum.as<A>() + first,
                                            args.top.as<int32_t>() + first,
                                            args.query.size(3),
                                            static_cast<A>(args.scale),
                                            static_cast<A>(args.eps)},
                                           order, scratch);
                     });
  });
}

}  // namespace wsol::cpu
