// CUDA: a block owns a chunk of an image's words (component_work.cuh), and unites within it in
// shared memory; what is left are contacts across chunks' ends (Allegretti et al., TPDS 2020, unite
// blocks of pixels likewise, all of them in global memory).
//
//   chunk   reads the mask, a byte a pixel; writes its bits and each piece's root in the chunk
//   join    unites across chunks' ends: chains of roots in global memory
//   roots   of a chunk's roots says which still are, and makes them the parents of the others
//   number  counts roots up to each place: a component's label
//   label   writes a label a pixel, which is what takes longest
#include "components/component_work.cuh"
#include "core/union_find.cuh"

namespace wsol::cuda {
namespace components {
namespace {

using ShortLabel = unsigned short;  // of a slot in a chunk
static_assert(kChunkSlots <= 1 << 16);

struct Masks {
  const unsigned char* data;
  int64_t image_stride, row_stride;
};

// Reads the bits of the chunk's words and of the word before.
template <int kRows>
__device__ void read_mask(const Work& work, const Masks& masks, const Chunk<kRows>& chunk) {
  constexpr int kAtOnce = 8 / kRows;  // words: so many reads are on their way together
  const unsigned char* mask = masks.data + chunk.image * masks.image_stride;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int before = chunk.first > 0 ? 1 : 0, end = chunk.first + chunk.count;
  // 32 words at a time, of which each lane keeps one.
  for (int begin = chunk.first - before + warp * kWarpSize; begin < end; begin += kThreads) {
    int strip = begin / work.row_words, column = begin - strip * work.row_words;
    unsigned kept[kRows] = {};
    for (int group = 0; group < kWarpSize; group += kAtOnce) {
      bool is_set[kAtOnce][kRows];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int x = column * kWarpSize + lane;
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const int y = strip * kRows + row;
          is_set[i][row] = begin + group + i < end && y < work.height && x < work.width &&
                           mask[y * masks.row_stride + x] != 0;
        }
        if (++column == work.row_words) column = 0, ++strip;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const unsigned ballot = __ballot_sync(kFullWarp, is_set[i][row]);
          if (lane == group + i) kept[row] = ballot;
        }
      }
    }
    const int word = begin + lane;
    if (word >= end) continue;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      chunk.bits[row * Chunk<kRows>::kStride + word - chunk.first + 1] = kept[row];
      if (word >= chunk.first) {
        work.bits[(chunk.image * kRows + row) * work.words + word] = kept[row];
      }
    }
  }
}

// Calls join(word, bit, other_word, other_bit) for pixels that touch, the first in this word or,
// at its left end, the one before; the other in the word before or in the strip above. row_at(row,
// word) gives bits.
template <int kRows, typename RowAt, typename Join>
__device__ void for_each_contact(const Work& work, int word, bool looks_up, const RowAt& row_at,
                                 const Join& join) {
  constexpr int kLast = kWarpSize - 1;
  const bool has_left = word % work.row_words != 0;
  const auto left_of = [&](int row, int of) {
    return row_at(row, of) << 1 | (has_left ? row_at(row, of - 1) >> kLast : 0u);
  };
  if (has_left) {
    unsigned here = row_at(0, word), left = row_at(0, word - 1);
    if constexpr (kRows == 2) here |= row_at(1, word), left |= row_at(1, word - 1);
    if ((here & left >> kLast) != 0) join(word, 0, word - 1, kLast);
  }
  if (!looks_up) return;
  const int upper = word - work.row_words;
  const RowContacts<unsigned> contacts(row_at(0, word), left_of(0, word), row_at(kRows - 1, upper),
                                       left_of(kRows - 1, upper));
  unsigned touches = contacts.joins;
  if constexpr (kRows == 2) touches |= contacts.falls | contacts.rises;
  for (; touches != 0; touches &= touches - 1) {
    const int bit = lowest_bit(touches);
    // The piece that began last up to here is the one that touches, unless it lies a word before.
    const bool from_left = kRows == 2 && bit == 0 && (contacts.rises & 1u) != 0;
    const bool to_left = kRows == 2 && bit == 0 && (contacts.falls & 1u) != 0;
    join(from_left ? word - 1 : word, from_left ? kLast : bit, to_left ? upper - 1 : upper,
         to_left ? kLast : bit);
  }
}

template <int kRows>
__global__ void __launch_bounds__(kThreads) chunk_kernel(Work work, Masks masks) {
  auto* memory = reinterpret_cast<unsigned*>(dynamic_shared());
  const Chunk<kRows> chunk(work, memory);
  auto* labels = reinterpret_cast<ShortLabel*>(memory + kRows * Chunk<kRows>::kStride);
  read_mask(work, masks, chunk);
  for (int slot = threadIdx.x; slot < kChunkSlots; slot += kThreads) {
    labels[slot] = static_cast<ShortLabel>(slot);
  }
  __syncthreads();

  const auto slot_at = [&](int word, int bit) {
    const unsigned starts = starts_of(chunk.columns(word)) & up_to(bit);
    return (word - chunk.first) * kSlots + __popc(starts) - 1;
  };
  for (int i = threadIdx.x; i < chunk.count; i += kThreads) {
    const int word = chunk.first + i;
    for_each_contact<kRows>(
        work, word, i >= work.row_words, [&](int row, int at) { return chunk.row(row, at); },
        [&](int one, int bit, int other, int other_bit) {
          if (other < chunk.first) return;  // the next kernel's
          unite(labels, slot_at(one, bit), slot_at(other, other_bit));
        });
  }
  __syncthreads();

  int* parents = work.parents + (chunk.image * work.words + chunk.first) * kSlots;
  unsigned roots = 0;
  for_each_slot(0, [&](int slot, bool, int group) {
    bool is_root = false;
    if (chunk.is_piece(slot)) {
      const int root = flatten_way(labels, slot);
      is_root = root == slot;
      parents[slot] = chunk.first * kSlots + root;
    }
    const unsigned ballot = __ballot_sync(kFullWarp, is_root);
    if (static_cast<int>(threadIdx.x % kWarpSize) == group) roots = ballot;
  });
  work.chunk_roots[int64_t{blockIdx.x} * kThreads + threadIdx.x] = roots;
}

// A block owns the first words of a chunk, but an image's first: those with a neighbour in earlier
// chunks.
template <int kRows>
__global__ void join_kernel(Work work) {
  const int64_t image = blockIdx.x / (work.chunks - 1);
  const int index = static_cast<int>(blockIdx.x - image * (work.chunks - 1)) + 1;
  const int first = index * kChunk;
  const int end = min(min(first + kChunk, work.words), first + work.row_words + 1);
  const unsigned* bits = work.bits + image * kRows * work.words;
  int* parents = work.parents + image * work.words * kSlots;
  const auto row_at = [&](int row, int word) { return bits[row * work.words + word]; };
  const auto element_at = [&](int word, int bit) {
    unsigned columns = row_at(0, word);
    if constexpr (kRows == 2) columns |= row_at(1, word);
    return word * kSlots + __popc(starts_of(columns) & up_to(bit)) - 1;
  };
  for (int word = first + static_cast<int>(threadIdx.x); word < end;
       word += static_cast<int>(blockDim.x)) {
    for_each_contact<kRows>(work, word, word >= work.row_words, row_at,
                            [&](int one, int bit, int other, int other_bit) {
                              unite(parents, element_at(one, bit), element_at(other, other_bit));
                            });
  }
}

__global__ void __launch_bounds__(kThreads) roots_kernel(Work work) {
  auto* partial = reinterpret_cast<int*>(dynamic_shared());
  const int64_t image = blockIdx.x / work.chunks;
  const int index = static_cast<int>(blockIdx.x - image * work.chunks);
  int* parents = work.parents + image * work.words * kSlots;
  const int64_t own = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  unsigned roots = 0;
  for_each_slot(work.chunk_roots[own], [&](int slot, bool is_chunk_root, int group) {
    const int element = index * kChunkSlots + slot;
    const bool is_root = is_chunk_root && flatten_way(parents, element) == element;
    const unsigned ballot = __ballot_sync(kFullWarp, is_root);
    if (static_cast<int>(threadIdx.x % kWarpSize) == group) roots = ballot;
  });
  work.roots[own] = roots;
  const int count = block_sum(__popc(roots), partial);
  if (threadIdx.x == 0) work.counts[blockIdx.x] = count;
}

__global__ void __launch_bounds__(kThreads) number_kernel(Work work, int64_t* counts) {
  auto* partial = reinterpret_cast<int*>(dynamic_shared());
  const int64_t image = blockIdx.x / work.chunks;
  const int index = static_cast<int>(blockIdx.x - image * work.chunks);
  int earlier = 0;
  for (int i = threadIdx.x; i < index; i += kThreads) {
    earlier += work.counts[image * work.chunks + i];
  }
  earlier = block_sum(earlier, partial);
  const int64_t own = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const auto [before, total] = block_exclusive_sum(__popc(work.roots[own]), partial);
  work.earlier[own] = earlier + before;
  if (index == work.chunks - 1 && threadIdx.x == 0) counts[image] = earlier + total;
}

template <int kRows>
__global__ void __launch_bounds__(kThreads) label_kernel(Work work, int* labels) {
  auto* memory = reinterpret_cast<unsigned*>(dynamic_shared());
  const Chunk<kRows> chunk(work, memory);
  auto* found = reinterpret_cast<int*>(memory + kRows * Chunk<kRows>::kStride);  // (kChunkSlots,)
  chunk.load(work);
  const int first = chunk.first * kSlots;
  const int* parents = work.parents + chunk.image * work.words * kSlots + first;
  const unsigned roots = work.chunk_roots[int64_t{blockIdx.x} * kThreads + threadIdx.x];
  for_each_slot(roots, [&](int slot, bool is_chunk_root, int) {
    if (is_chunk_root) found[slot] = label_of(work, chunk.image, parents[slot]);
    __syncwarp();
  });
  __syncthreads();
  for_each_slot(roots, [&](int slot, bool is_chunk_root, int) {
    if (!is_chunk_root && chunk.is_piece(slot)) found[slot] = found[parents[slot] - first];
    __syncwarp();
  });
  __syncthreads();
  int* out = labels + chunk.image * work.height * work.width;
  chunk.for_each_word_of_warp(work, [&](int word, int y, int x) {
    const int lane = x % kWarpSize;
    const unsigned starts = starts_of(chunk.columns(word)) & up_to(lane);
    const int slot = (word - chunk.first) * kSlots + __popc(starts) - 1;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (y + row >= work.height || x >= work.width) continue;
      const bool is_set = (chunk.row(row, word) >> lane & 1u) != 0;
      out[int64_t{y + row} * work.width + x] = is_set ? found[slot] : 0;
    }
  });
}

}  // namespace
}  // namespace components

int64_t label_components_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                       bool corners_touch) {
  return components::Work({}, images, height, width, corners_touch).bytes;
}

std::shared_ptr<ComponentLists> label_components(const LabelComponents& args, Stream stream) {
  using namespace components;
  const Work work(args.scratch, args.masks.size(0), args.masks.size(1), args.masks.size(2),
                  args.corners_touch);
  const Masks masks{args.masks.as<unsigned char>(), args.masks.stride(0), args.masks.stride(1)};
  constexpr int kJoinThreads = 128;
  constexpr int kPartial = kWarps * sizeof(int);
  with_rows(work, [&]<int kRows>() {
    constexpr int kBits = Chunk<kRows>::kBytes;
    launch(kName, chunk_kernel<kRows>, work.blocks(), kThreads,
           kBits + kChunkSlots * sizeof(ShortLabel), stream, work, masks);
    if (work.chunks > 1) {
      launch(kName, join_kernel<kRows>, static_cast<unsigned>(work.images * (work.chunks - 1)),
             kJoinThreads, 0, stream, work);
    }
    launch(kName, roots_kernel, work.blocks(), kThreads, kPartial, stream, work);
    launch(kName, number_kernel, work.blocks(), kThreads, kPartial, stream, work,
           args.counts.as<int64_t>());
    launch(kName, label_kernel<kRows>, work.blocks(), kThreads, kBits + kChunkSlots * sizeof(int),
           stream, work, args.labels.as<int>());
  });
  return nullptr;
}

}  // namespace wsol::cuda
