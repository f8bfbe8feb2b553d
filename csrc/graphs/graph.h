// CPU: the graph of an image's tokens, as its eigenvectors are found: by products.
#pragma once

#include <cstdint>
#include <memory>

#include "graphs/normalized_cut.h"

namespace wsol::cpu {

constexpr int64_t kBlock = 64;  // tokens; a word's bits

inline int64_t blocks_of(int64_t tokens) { return (tokens + kBlock - 1) / kBlock; }

class Graph {
 public:
  virtual ~Graph() = default;

  // Makes `from`, of whole blocks with zeros after the last token, what `multiply` multiplies.
  virtual void set_vector(const double* from) = 0;
  // to = A from, for a block's rows; what is after the last token's is of no matter.
  virtual void multiply(int64_t block, double* to) const = 0;
};

// Of an image of `args`; nothing where a feature is not finite.
std::unique_ptr<Graph> bit_graph(const NormalizedCut& args, int64_t image, int threads);
std::unique_ptr<Graph> weighted_graph(const NormalizedCut& args, int64_t image, int threads);

}  // namespace wsol::cpu
