// CPU: one task a range of rows. Limited by the exponentials.
#include "attention/masked_softmax.h"

#include <algorithm>
#include <limits>

#include "core/element_types.h"
#include "core/exp.h"
#include "core/multiversion.h"
#include "core/parallel_for.h"

namespace wsol::cpu {
namespace {

constexpr int64_t kGrain = 4096;  // entries a task, about

// `keep` as bytes: compilers vectorize no loops over bool.
template <typename T, typename A>
WSOL_MULTIVERSION void forward_row(const T* logits, const uint8_t* keep, int64_t count, A log_eps,
                                   A* out) {
  constexpr A kNone = -std::numeric_limits<A>::infinity();
  A largest = log_eps;
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < count; ++j) {
    const A logit = static_cast<A>(logits[j]);  // read whether kept or not: no branch
    out[j] = keep[j] ? logit : kNone;
    largest = out[j] > largest ? out[j] : largest;
  }
  A sum = exp_of_nonpositive(log_eps - largest);
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    out[j] = exp_of_nonpositive(out[j] - largest);
    sum += out[j];
  }
  const A factor = 1 / sum;
  // Not kept is 0 also where the sum is NaN.
  for (int64_t j = 0; j < count; ++j) {
    const A weight = out[j] * factor;
    out[j] = keep[j] ? weight : A(0);
  }
}

template <typename T, typename A>
WSOL_MULTIVERSION void backward_row(const A* grad_out, const A* out, int64_t count,
                                    T* grad_logits) {
  A expected = 0;  // sum_j out_j dL/dout_j
#pragma omp simd reduction(+ : expected)
  for (int64_t j = 0; j < count; ++j) expected += out[j] * grad_out[j];
  for (int64_t j = 0; j < count; ++j) {
    grad_logits[j] = static_cast<T>(out[j] * (grad_out[j] - expected));
  }
}

int64_t rows_a_task(int64_t count) { return std::max<int64_t>(1, kGrain / count); }

}  // namespace

void masked_softmax_forward(const MaskedSoftmaxForward& args, int threads) {
  const int64_t rows = args.logits.size(0), count = args.logits.size(1);
  with_floating_type("masked_softmax", args.logits.dtype, [&]<typename T>(ElementTag<T>) {
    using A = Accumulator<T>;
    parallel_for(rows, rows_a_task(count), threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        forward_row<T, A>(args.logits.as<T>() + row * args.logits.stride(0),
                          args.keep.as<uint8_t>() + row * args.keep.stride(0), count,
                          static_cast<A>(args.log_eps), args.out.as<A>() + row * count);
      }
    });
  });
}

void masked_softmax_backward(const MaskedSoftmaxBackward& args, int threads) {
  const int64_t rows = args.out.size(0), count = args.out.size(1);
  with_floating_type("masked_softmax", args.grad_logits.dtype, [&]<typename T>(ElementTag<T>) {
    using A = Accumulator<T>;
    parallel_for(rows, rows_a_task(count), threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        backward_row<T, A>(args.grad_out.as<A>() + row * count, args.out.as<A>() + row * count,
                           count, args.grad_logits.as<T>() + row * count);
      }
    });
  });
}

}  // namespace wsol::cpu
