// What the CUDA kernels of label_components share: sizes, the scratch memory, and words of 32
// columns.
//
// The columns of a strip of one or two rows are words of 32 bits. A piece is a run of a word, at
// most kSlots of them, and the element of the union-find: piece k of a word has the number
// word * kSlots + k, so that who has the bits knows the number. A run over several words is united
// as everything else is. Numbers grow as OpenCV's order does.
#pragma once

#include "components/label_components.h"
#include "core/cuda.h"
#include "core/row_contacts.h"
#include "core/scratch.h"

namespace wsol::cuda::components {

constexpr const char* kName = "label_components";
// In the emulated build so few that small masks have many chunks.
#if defined(WSOL_COMPONENT_WARPS)
constexpr int kWarps = WSOL_COMPONENT_WARPS;
#else
constexpr int kWarps = 8;
#endif
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kSlots = kWarpSize / 2;
// What a block owns: consecutive words of an image, whose slots are a lane's and a warp's bits.
constexpr int kChunk = kThreads * kWarpSize / kSlots;
constexpr int kChunkSlots = kChunk * kSlots;

struct Work {
  int64_t images;
  int height, width;
  int rows;                      // of a strip
  int row_words, words, chunks;  // of a strip, of an image, of an image

  unsigned* bits;  // (B, rows, words): the mask, of strips the first row and then the second
  int* parents;    // (B, words, kSlots): of an element its root in the chunk, of that its root
  // Each (B, chunks, kThreads), of 32 slots.
  unsigned* chunk_roots;  // which are roots in the chunk
  unsigned* roots;        // which are roots
  int* earlier;           // how many of the image's are before
  int* counts;            // (B, chunks): roots
  int64_t bytes;

  Work(const TensorView& memory, int64_t batch, int64_t h, int64_t w, bool corners_touch)
      : images(batch),
        height(static_cast<int>(h)),
        width(static_cast<int>(w)),
        rows(corners_touch ? 2 : 1),
        row_words((width + kWarpSize - 1) / kWarpSize),
        words((height + rows - 1) / rows * row_words),
        chunks((words + kChunk - 1) / kChunk) {
    ScratchParts parts(memory);
    parts.take(bits, images * rows * words);
    parts.take(parents, images * words * kSlots);
    parts.take(chunk_roots, images * chunks * kThreads);
    parts.take(roots, images * chunks * kThreads);
    parts.take(earlier, images * chunks * kThreads);
    parts.take(counts, images * chunks);
    bytes = parts.bytes();
  }

  WSOL_HOST_DEVICE int64_t slot_words() const { return int64_t{chunks} * kThreads; }

  unsigned blocks() const { return static_cast<unsigned>(images * chunks); }
};

// Calls run.operator()<kRows>() with the rows of a strip.
template <typename Run>
void with_rows(const Work& work, const Run& run) {
  work.rows == 2 ? run.template operator()<2>() : run.template operator()<1>();
}

#if defined(__CUDACC__) || defined(WSOL_EMULATOR)

// The bits up to `bit`, and those below.
__device__ inline unsigned up_to(int bit) { return (2u << bit) - 1u; }
__device__ inline unsigned below(int bit) { return (1u << bit) - 1u; }

// Where a word's pieces begin, of the columns that have a pixel.
__device__ inline unsigned starts_of(unsigned columns) { return columns & ~(columns << 1); }

// The label of the component with this root, numbers as an image's elements have.
__device__ inline int label_of(const Work& work, int64_t image, int root) {
  const int64_t word = image * work.slot_words() + root / kWarpSize;
  return work.earlier[word] + __popc(work.roots[word] & up_to(root % kWarpSize));
}

// Calls visit(slot, whether its bit is set, which lane has that bit) for all slots of a chunk, a
// warp for 32 at a time: `own` has the bits of this thread's 32 slots.
template <typename Visit>
__device__ void for_each_slot(unsigned own, const Visit& visit) {
  const int lane = threadIdx.x % kWarpSize, first = static_cast<int>(threadIdx.x) - lane;
  for (int group = 0; group < kWarpSize; ++group) {
    const unsigned bits = __shfl_sync(kFullWarp, own, group);
    visit((first + group) * kWarpSize + lane, (bits >> lane & 1u) != 0, group);
  }
}

// A block's words, and their bits in shared memory.
template <int kRows>
struct Chunk {
  int64_t image;
  int index;         // in the image
  int first, count;  // words
  unsigned* bits;    // (kRows, kStride): from the word before the first on

  static constexpr int kStride = kChunk + 1;
  static constexpr int kBytes = kRows * kStride * static_cast<int>(sizeof(unsigned));

  __device__ Chunk(const Work& work, unsigned* memory)
      : image(blockIdx.x / work.chunks),
        index(static_cast<int>(blockIdx.x - image * work.chunks)),
        first(index * kChunk),
        count(min(kChunk, work.words - first)),
        bits(memory) {}

  __device__ unsigned row(int row, int word) const {
    return bits[row * kStride + word - first + 1];
  }
  __device__ unsigned columns(int word) const {
    unsigned any = row(0, word);
    if constexpr (kRows == 2) any |= row(1, word);
    return any;
  }

  __device__ bool is_piece(int slot) const {
    const int i = slot / kSlots;
    return i < count && slot % kSlots < __popc(starts_of(columns(first + i)));
  }

  // Copies the bits from the scratch memory, but the word before.
  __device__ void load(const Work& work) const {
    for (int r = 0; r < kRows; ++r) {
      const unsigned* from = work.bits + (image * kRows + r) * work.words + first;
      for (int i = threadIdx.x; i < count; i += kThreads) bits[r * kStride + i + 1] = from[i];
    }
    __syncthreads();
  }

  // The words that this thread's warp goes through, one after the other.
  template <typename Visit>
  __device__ void for_each_word_of_warp(const Work& work, const Visit& visit) const {
    const int warp = threadIdx.x / kWarpSize;
    int strip = (first + warp) / work.row_words, column = first + warp - strip * work.row_words;
    for (int word = first + warp; word < first + count; word += kWarps) {
      visit(word, strip * kRows, column * kWarpSize + static_cast<int>(threadIdx.x % kWarpSize));
      __syncwarp();
      for (column += kWarps; column >= work.row_words; ++strip) column -= work.row_words;
    }
  }
};

#endif  // __CUDACC__ || WSOL_EMULATOR

}  // namespace wsol::cuda::components
