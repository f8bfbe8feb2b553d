// CUDA: an image's distinct cuts are told apart first, then every (image, cut) pair is answered by
// a block of its own.
//
//   read     a block owns an image: quantizes it to bit planes and finds its distinct cuts. Reads
//   the
//            map once, writes a byte a pixel.
//   pairs    a block owns an (image, cut): finds its runs, labels their components and reduces
//   these
//            to one answer (cut_contours.cuh). Reads a byte a pixel; the runs lie in shared memory,
//            whose latency limits it.
//   rest     the same for the pairs that have more runs than fit there: a block owns some of them,
//            and keeps their runs in its part of the scratch memory.
//   answers  a thread owns an (image, threshold) and takes the answer of its cut.
#include <algorithm>

#include "boxes/cut_contours.cuh"
#include "boxes/extract_boxes.h"
#include "boxes/iou.h"
#include "core/scratch.h"

namespace wsol::cuda {
namespace {

constexpr int kReadThreads = 1024;
constexpr int kPairThreads = 512;
constexpr int kMaxCuts = 255;  // cuts 0..254 lie below a largest value of up to 255
constexpr int kNoForeground = -1;
// What the elements of a pair may take of shared memory for each row of the map: 16 runs, of which
// every second is background, or 8 where all boxes are wanted. At 224 x 224 four blocks fit an SM.
constexpr int kElementBytesARow = 128;
// The blocks that answer the rest are as many as have scratch within this, but at least one.
#if defined(WSOL_PAIR_SCRATCH_BYTES)  // the emulated build: so little that in every test a block
                                      // owns many pairs
constexpr int64_t kPairScratchBytes = WSOL_PAIR_SCRATCH_BYTES;
#else
constexpr int64_t kPairScratchBytes = int64_t{256} << 20;
#endif

enum class Answer { kLargestBox, kMostPixelsBox, kBestIou, kCount, kList };

// Ints an element: its label, and by root the area or the pixels, or three bounds of the box.
__host__ __device__ constexpr int planes_for(Answer answer) {
  return answer == Answer::kLargestBox || answer == Answer::kMostPixelsBox ? 2 : 4;
}

// Ints of a pair's runs, of which there are fewer than `elements`.
int64_t run_ints(MapSize size, int64_t elements, Answer answer) {
  return 3 * int64_t{size.words()} + planes_for(answer) * elements;
}

// The scratch memory, cut up.
struct Scratch {
  uint4* quantized;       // (B, 2, words): bit planes, see CutRuns::find
  int* cuts;              // (B,): how many distinct cuts the image has
  int* cut_values;        // (B, S)
  int* first_thresholds;  // (B, S): the first threshold with this cut
  int* cut_of_threshold;  // (B, T): index of its cut, or kNoForeground
  uint8_t* overflows;     // (B, S): whether the pair's runs do not fit shared memory
  int4* answers;          // (B, S): a box, or in x the best IoU's bits or the number of boxes
  int* runs;              // (blocks for the rest, ints_a_block)
  int slots;              // S: cuts an image can have
  int64_t ints_a_block, blocks, bytes;

  Scratch(const TensorView& memory, int64_t images, MapSize size, int64_t thresholds, Answer answer)
      : slots(static_cast<int>(std::min<int64_t>(thresholds, kMaxCuts))) {
    ScratchParts parts(memory);
    parts.take(quantized, images * 2 * size.words());
    parts.take(cuts, images);
    parts.take(cut_values, images * slots);
    parts.take(first_thresholds, images * slots);
    parts.take(cut_of_threshold, images * thresholds);
    parts.take(overflows, images * slots);
    parts.take(answers, images * slots);
    ints_a_block = run_ints(size, int64_t{size.pixels()} + 1, answer);
    const int64_t most = std::min<int64_t>(images * slots, 0x7fffffff);
    blocks =
        std::clamp<int64_t>(kPairScratchBytes / (4 * ints_a_block), 1, std::max<int64_t>(most, 1));
    parts.take(runs, blocks * ints_a_block);
    bytes = parts.bytes();
  }
};

template <typename T>
struct ScoreMaps {
  const T* data;
  int64_t image_stride, row_stride;
  MapSize size;
};

template <typename T>
__global__ void __launch_bounds__(kReadThreads)
    read_kernel(ScoreMaps<T> maps, const double* thresholds, int count, const float* gt_boxes,
                int gt_values, Scratch scratch, int* status) {
  int* partial = reinterpret_cast<int*>(dynamic_shared());  // a value a warp
  int* first_of_cut = partial + kReadThreads / kWarpSize;   // (256,), then the cut's index
  const int64_t image = blockIdx.x;
  const int words = maps.size.words(), row_words = maps.size.row_words();
  const int lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
  unsigned* planes = reinterpret_cast<unsigned*>(scratch.quantized + image * 2 * words);
  int largest = 0, wrong = 0;
  constexpr int kWordsAtOnce = 4;  // loads that are on their way together
  for (int first = threadIdx.x / kWarpSize; first < words; first += warps * kWordsAtOnce) {
    T stored[kWordsAtOnce];
    bool inside[kWordsAtOnce];
#pragma unroll
    for (int i = 0; i < kWordsAtOnce; ++i) {
      const int word = first + i * warps, y = word / row_words;
      const int x = (word - y * row_words) * kWarpSize + lane;
      inside[i] = word < words && x < maps.size.width;
      if (inside[i]) stored[i] = maps.data[image * maps.image_stride + y * maps.row_stride + x];
    }
#pragma unroll
    for (int i = 0; i < kWordsAtOnce; ++i) {
      const int word = first + i * warps;
      if (word >= words) break;
      int u = 0;
      if (inside[i]) {
        const auto score = static_cast<double>(Element<T>::load(stored[i]));
        const bool good = score >= 0.0 && score <= 1.0;
        if (!good) wrong |= kBadScore;
        u = good ? static_cast<int>(255.0 * score) : (score > 1.0 ? 255 : 0);
      }
      largest = max(largest, u);
      unsigned plane = 0;
      for (int bit = 0; bit < 8; ++bit) {
        const unsigned all = __ballot_sync(kFullWarp, u >> bit & 1);
        if (lane == bit) plane = all;
      }
      if (lane < 4) planes[4 * word + lane] = plane;
      if (lane >= 4 && lane < 8) planes[4 * (words + word) + lane - 4] = plane;
    }
  }
  for (int i = threadIdx.x; i < 256; i += blockDim.x) first_of_cut[i] = count;
  largest = block_max(largest, partial);  // also a barrier

  const auto cut_at = [&](int t) {
    const double threshold = thresholds[t];
    const int cut = threshold >= 0.0 && threshold < 1.0 ? static_cast<int>(threshold * largest) : 0;
    return cut < largest ? cut : kNoForeground;
  };
  for (int t = threadIdx.x; t < count; t += blockDim.x) {
    if (!(thresholds[t] >= 0.0 && thresholds[t] < 1.0)) wrong |= kBadThreshold;
    if (cut_at(t) != kNoForeground) atomicMin(&first_of_cut[cut_at(t)], t);
  }
  for (int i = threadIdx.x; i < gt_values; i += blockDim.x) {
    if (!isfinite(gt_boxes[image * gt_values + i])) wrong |= kBadGtBox;
  }
  if (wrong != 0) atomicOr(status, wrong);
  __syncthreads();

  int found = 0;
  for (int begin = 0; begin < 256; begin += blockDim.x) {
    const int cut = begin + static_cast<int>(threadIdx.x);
    const bool wanted = cut < 256 && first_of_cut[cut] != count;
    const ExclusiveSum sum = block_exclusive_sum(wanted ? 1 : 0, partial);
    if (wanted) {
      const int64_t pair = image * scratch.slots + found + sum.before;
      scratch.cut_values[pair] = cut;
      scratch.first_thresholds[pair] = first_of_cut[cut];
      first_of_cut[cut] = found + sum.before;
    }
    found += sum.total;
  }
  if (threadIdx.x == 0) scratch.cuts[image] = found;
  for (int i = threadIdx.x; i < scratch.slots; i += blockDim.x) {
    scratch.overflows[image * scratch.slots + i] = i < found ? 1 : 0;
  }
  __syncthreads();
  for (int t = threadIdx.x; t < count; t += blockDim.x) {
    const int cut = cut_at(t);
    scratch.cut_of_threshold[image * count + t] = cut == kNoForeground ? cut : first_of_cut[cut];
  }
}

struct GtBoxes {
  const float* data;
  int count;  // an image
};

__device__ float best_iou(int4 box, MapSize size, const GtBoxes& gt, int64_t image) {
  const BoxOf<float> clipped = clipped_box(box.x, box.y, box.z, box.w, size.width, size.height);
  const float area = area_of(clipped, 1.0f);
  float best = 0;
#pragma unroll 1  // a division takes registers
  for (int g = 0; g < gt.count; ++g) {
    const float* b = gt.data + (image * gt.count + g) * 4;
    const bool padding = b[0] == -1.0f && b[1] == -1.0f && b[2] == -1.0f && b[3] == -1.0f;
    const bool finite = isfinite(b[0]) && isfinite(b[1]) && isfinite(b[2]) && isfinite(b[3]);
    if (padding || !finite) continue;
    best = fmaxf(best, iou_of(clipped, area, box_at(b), 1.0f));
  }
  return best;
}

// What the pair kernels ask of a pair.
struct Question {
  int thresholds;
  GtBoxes gt;
  const int64_t* offsets;  // of the boxes that are listed
  int4* boxes;
};

// Answers an image's cut from its runs, whose labels and what is summed by root have `capacity`
// elements each.
template <Answer kAnswer>
__device__ void answer_pair(const CutRuns& runs, int64_t capacity, int64_t image, int64_t pair,
                            const Scratch& scratch, const Question& question, Partial& partial) {
  int* sums = runs.labels + capacity;
  int4 answer = make_int4(0, 0, 0, 0);
  if constexpr (kAnswer == Answer::kLargestBox) {
    answer = largest_box(runs, sums, partial);
  } else if constexpr (kAnswer == Answer::kMostPixelsBox) {
    answer = most_pixels_box(runs, sums, partial);
  } else {
    runs.label<true>();
    if constexpr (kAnswer == Answer::kCount) {
      runs.for_each_root([&](int, int, bool) { ++answer.x; });
      answer.x = block_sum(answer.x, partial.ints());
    } else {
      const Bounds bounds{sums, sums + capacity, sums + 2 * capacity};
      bounds.find(runs);
      if constexpr (kAnswer == Answer::kList) {
        const int64_t at = image * question.thresholds + scratch.first_thresholds[pair];
        list_contours(runs, bounds, question.boxes + question.offsets[at], partial);
      } else {
        float best = 0;
        runs.for_each_root([&](int root, int y, bool is_hole) {
          const int4 box = bounds.box(root, y, is_hole);
          best = fmaxf(best, best_iou(box, runs.size, question.gt, image));
        });
        answer.x = __float_as_int(block_max(best, partial.floats()));
      }
    }
  }
  if (threadIdx.x == 0) scratch.answers[pair] = answer;
}

// The runs of a pair, found in `memory`, where words come first.
__device__ inline CutRuns find_runs(MapSize size, int* memory, const Scratch& scratch,
                                    int64_t image, int64_t pair, Partial& partial) {
  const int words = size.words();
  CutRuns runs{size, reinterpret_cast<unsigned*>(memory),
               reinterpret_cast<unsigned*>(memory) + words, memory + 2 * words, memory + 3 * words};
  runs.find(scratch.quantized + image * 2 * words, scratch.cut_values[pair], partial.ints());
  return runs;
}

template <Answer kAnswer>
__global__ void __launch_bounds__(kPairThreads, kAnswer == Answer::kBestIou ? 2 : 3)
    pair_kernel(MapSize size, int capacity, Scratch scratch, Question question) {
  const int64_t image = blockIdx.x, pair = image * scratch.slots + blockIdx.y;
  if (static_cast<int>(blockIdx.y) >= scratch.cuts[image]) return;
  Partial& partial = *reinterpret_cast<Partial*>(dynamic_shared());
  int* memory = reinterpret_cast<int*>(dynamic_shared() + sizeof(Partial));
  const CutRuns runs = find_runs(size, memory, scratch, image, pair, partial);
  const bool overflows = runs.elements > capacity;
  if (threadIdx.x == 0) scratch.overflows[pair] = overflows ? 1 : 0;
  if (overflows) return;
  answer_pair<kAnswer>(runs, capacity, image, pair, scratch, question, partial);
}

template <Answer kAnswer>
__global__ void __launch_bounds__(kPairThreads, 2)
    rest_kernel(MapSize size, int64_t pairs, Scratch scratch, Question question) {
  Partial& partial = *reinterpret_cast<Partial*>(dynamic_shared());
  int* memory = scratch.runs + blockIdx.x * scratch.ints_a_block;
  const int64_t step = gridDim.x;
  // Mostly there is no pair left: each thread looks at one, before the block looks at all of these.
  for (int64_t first = blockIdx.x; first < pairs; first += blockDim.x * step) {
    const int64_t own = first + threadIdx.x * step;
    if (__syncthreads_or(own < pairs && scratch.overflows[own] != 0) == 0) continue;
    for (int i = 0; i < static_cast<int>(blockDim.x); ++i) {
      const int64_t pair = first + i * step;
      if (pair >= pairs) break;
      if (scratch.overflows[pair] == 0) continue;
      const int64_t image = pair / scratch.slots;
      const CutRuns runs = find_runs(size, memory, scratch, image, pair, partial);
      answer_pair<kAnswer>(runs, int64_t{size.pixels()} + 1, image, pair, scratch, question,
                           partial);
      __syncthreads();
    }
  }
}

__device__ int4 answer_of(const Scratch& scratch, int64_t index, int thresholds,
                          int4 without_foreground) {
  const int cut = scratch.cut_of_threshold[index];
  return cut == kNoForeground ? without_foreground
                              : scratch.answers[index / thresholds * scratch.slots + cut];
}

__global__ void boxes_kernel(Scratch scratch, int64_t total, int thresholds, int4* boxes) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < total) boxes[index] = answer_of(scratch, index, thresholds, make_int4(0, 0, 0, 0));
}

__global__ void counts_kernel(Scratch scratch, int64_t total, int thresholds, int64_t* counts) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < total) counts[index] = answer_of(scratch, index, thresholds, make_int4(1, 0, 0, 0)).x;
}

__global__ void ious_kernel(Scratch scratch, int64_t total, int thresholds, MapSize size,
                            GtBoxes gt, bool answers_are_boxes, float* best_ious) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= total) return;
  const int4 answer = answer_of(scratch, index, thresholds, make_int4(0, 0, 0, 0));
  const bool is_box = answers_are_boxes || scratch.cut_of_threshold[index] == kNoForeground;
  best_ious[index] =
      is_box ? best_iou(answer, size, gt, index / thresholds) : __int_as_float(answer.x);
}

// A block owns an (image, threshold) and fills its range, unless its cut's block did.
__global__ void repeat_kernel(Scratch scratch, int thresholds, const int64_t* offsets,
                              int4* boxes) {
  const int64_t index = blockIdx.x, image = index / thresholds;
  const int cut = scratch.cut_of_threshold[index];
  int4* out = boxes + offsets[index];
  if (cut == kNoForeground) {
    if (threadIdx.x == 0) *out = make_int4(0, 0, 0, 0);
    return;
  }
  const int64_t from = image * thresholds + scratch.first_thresholds[image * scratch.slots + cut];
  if (from == index) return;
  const int64_t count = offsets[index + 1] - offsets[index];
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) out[i] = boxes[offsets[from] + i];
}

MapSize size_of(int64_t height, int64_t width) {
  return {static_cast<int>(height), static_cast<int>(width)};
}

// One operator call: its sizes, and the kernels that all of them run.
struct Call {
  const char* name;
  MapSize size;
  int64_t images;
  int thresholds;
  GtBoxes gt{nullptr, 0};
  Stream stream;
  Scratch scratch;

  Call(const char* operator_name, const TensorView& score_maps, const TensorView& threshold_list,
       const TensorView& memory, Answer answer, Stream on)
      : name(operator_name),
        size(size_of(score_maps.size(1), score_maps.size(2))),
        images(score_maps.size(0)),
        thresholds(static_cast<int>(threshold_list.size(0))),
        stream(on),
        scratch(memory, images, size, thresholds, answer) {}

  int64_t total() const { return images * thresholds; }

  int64_t pairs() const { return images * scratch.slots; }

  void read(const TensorView& score_maps, const TensorView& threshold_list,
            const TensorView& status) {
    with_floating_type(name, score_maps.dtype, [&]<typename T>(ElementTag<T>) {
      const ScoreMaps<T> maps{score_maps.as<T>(), score_maps.stride(0), score_maps.stride(1), size};
      const int threads = std::min(kReadThreads, size.words() * kWarpSize);
      const size_t shared = (kReadThreads / kWarpSize + 256) * sizeof(int);
      launch(name, read_kernel<T>, static_cast<unsigned>(images), threads, shared, stream, maps,
             threshold_list.as<double>(), thresholds, gt.data, gt.count * 4, scratch,
             status.as<int>());
    });
  }

  // So many that all go through as many words, and as few of those as can be.
  int threads() const {
    const int words = size.words(), each = (words + kPairThreads - 1) / kPairThreads;
    const int wanted = (words + each - 1) / each;
    return (wanted + kWarpSize - 1) / kWarpSize * kWarpSize;
  }

  // Elements of a pair that shared memory is asked for, or 0 where too few fit.
  int shared_capacity(Answer answer) const {
    const int64_t bytes_each = planes_for(answer) * sizeof(int);
    const int64_t wanted =
        std::min<int64_t>(int64_t{size.pixels()} + 1, size.height * kElementBytesARow / bytes_each);
    if (shared_bytes(wanted, answer) <= kSharedBytesOfAnyKernel) return static_cast<int>(wanted);
    const int64_t most = shared_bytes_of_device(name);
    const int64_t fitting = (most - static_cast<int64_t>(shared_bytes(0, answer))) / bytes_each;
    const int64_t fewest = std::min(wanted, 4 * int64_t{size.height});
    return fitting < fewest ? 0 : static_cast<int>(std::min(wanted, fitting));
  }
  size_t shared_bytes(int64_t elements, Answer answer) const {
    return sizeof(Partial) + run_ints(size, elements, answer) * sizeof(int);
  }

  template <Answer kAnswer>
  void answer_pairs(const int64_t* offsets = nullptr, int4* boxes = nullptr) {
    const Question question{thresholds, gt, offsets, boxes};
    const int capacity = shared_capacity(kAnswer);
    if (capacity > 0) {
      const dim3 grid(static_cast<unsigned>(images), static_cast<unsigned>(scratch.slots));
      launch(name, pair_kernel<kAnswer>, grid, threads(), shared_bytes(capacity, kAnswer), stream,
             size, capacity, scratch, question);
    }
    if (capacity > size.pixels()) return;
    launch(name, rest_kernel<kAnswer>, static_cast<unsigned>(scratch.blocks), threads(),
           sizeof(Partial), stream, size, pairs(), scratch, question);
  }

  // Runs kernel(scratch, total, thresholds, arguments...), a thread for each (image, threshold).
  template <typename Kernel, typename... Arguments>
  void scatter(Kernel kernel, Arguments... arguments) {
    constexpr int kBlock = 256;
    launch(name, kernel, blocks_for(total(), kBlock), kBlock, 0, stream, scratch, total(),
           thresholds, arguments...);
  }
};

}  // namespace

int64_t extract_boxes_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                    int64_t thresholds) {
  return Scratch({}, images, size_of(height, width), thresholds, Answer::kLargestBox).bytes;
}

int64_t count_boxes_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                  int64_t thresholds) {
  return Scratch({}, images, size_of(height, width), thresholds, Answer::kList).bytes;
}

int64_t best_box_iou_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                   int64_t thresholds, bool all_contours) {
  const Answer answer = all_contours ? Answer::kBestIou : Answer::kLargestBox;
  return Scratch({}, images, size_of(height, width), thresholds, answer).bytes;
}

void extract_boxes(const ExtractBoxes& args, Stream stream) {
  const Answer answer = args.most_pixels ? Answer::kMostPixelsBox : Answer::kLargestBox;
  Call call("extract_boxes", args.score_maps, args.thresholds, args.scratch, answer, stream);
  call.read(args.score_maps, args.thresholds, args.status);
  if (args.most_pixels) {
    call.answer_pairs<Answer::kMostPixelsBox>();
  } else {
    call.answer_pairs<Answer::kLargestBox>();
  }
  call.scatter(boxes_kernel, args.boxes.as<int4>());
}

std::shared_ptr<ContourLists> count_boxes(const CountBoxes& args, Stream stream) {
  Call call("extract_boxes", args.score_maps, args.thresholds, args.scratch, Answer::kCount,
            stream);
  call.read(args.score_maps, args.thresholds, args.status);
  call.answer_pairs<Answer::kCount>();
  call.scatter(counts_kernel, args.counts.as<int64_t>());
  return nullptr;
}

void list_boxes(const ListBoxes& args, Stream stream) {
  // The scratch is as count_boxes left it: the map is read already.
  Call call("extract_boxes", args.score_maps, args.thresholds, args.scratch, Answer::kList, stream);
  const auto* offsets = args.offsets.as<int64_t>();
  call.answer_pairs<Answer::kList>(offsets, args.boxes.as<int4>());
  launch(call.name, repeat_kernel, static_cast<unsigned>(call.total()), 64, 0, stream, call.scratch,
         call.thresholds, offsets, args.boxes.as<int4>());
}

void best_box_iou(const BestBoxIou& args, Stream stream) {
  const Answer answer = args.all_contours ? Answer::kBestIou : Answer::kLargestBox;
  Call call("best_box_iou", args.score_maps, args.thresholds, args.scratch, answer, stream);
  call.gt = {args.gt_boxes.as<float>(), static_cast<int>(args.gt_boxes.size(1))};
  call.read(args.score_maps, args.thresholds, args.status);
  if (args.all_contours) {
    call.answer_pairs<Answer::kBestIou>();
  } else {
    call.answer_pairs<Answer::kLargestBox>();
  }
  call.scatter(ious_kernel, call.size, call.gt, !args.all_contours, args.best_iou.as<float>());
}

}  // namespace wsol::cuda
