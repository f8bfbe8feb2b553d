// CUDA: an image's distinct cuts are told apart first, then every (image, cut) pair is answered by
// a block of its own.
//
//   read     a block owns an image: quantizes it to bit planes and finds its distinct cuts. Reads
//            the map once, writes a byte a pixel.
//   pairs    a block owns an (image, cut): finds its runs, labels their components and reduces
//            these to one answer (cut_contours.cuh). Reads a byte a pixel; the runs lie in shared
//            memory, whose latency limits it.
//   rest     the same for the pairs that have more runs than fit there: a block owns some of them,
//            and has all the shared memory that it can have. Where that too is not enough, another
//            launch keeps their runs in the scratch memory.
//   answers  a thread owns an (image, threshold) and takes the answer of its cut.
#include <algorithm>

#include "boxes/box_scratch.cuh"
#include "boxes/distinct_cuts.cuh"
#include "boxes/extract_boxes.h"
#include "boxes/pair_answers.cuh"

namespace wsol::cuda {
namespace {

// What a pair may take of shared memory for each row of the map, beside the words, and in how many
// parts its roots are dealt with at most: first little, so that at 224 x 224 four blocks fit an SM
// and few pairs are left, then as much as there is.
// In the emulated build so little that small maps have pairs of all kinds, and the first kernel
// none where all boxes are asked for.
#if defined(WSOL_PAIR_INTS_A_ROW)
constexpr int64_t kFewIntsARow = WSOL_PAIR_INTS_A_ROW, kManyIntsARow = 2 * kFewIntsARow;
#else
constexpr int64_t kFewIntsARow = 32, kManyIntsARow = int64_t{1} << 30;
#endif
constexpr int64_t kFewestARow = 8;  // elements, below which shared memory is no help
constexpr int kFewParts = 4, kManyParts = 16;
constexpr int64_t kMostShortLabels = 1 << 16;

__device__ int4 answer_of(const BoxScratch& scratch, int64_t index, int thresholds,
                          int4 without_foreground) {
  const int cut = scratch.cut_of_threshold[index];
  return cut == kNoForeground ? without_foreground
                              : scratch.answers[index / thresholds * scratch.slots + cut];
}

__global__ void boxes_kernel(BoxScratch scratch, int64_t total, int thresholds, int4* boxes) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < total) boxes[index] = answer_of(scratch, index, thresholds, make_int4(0, 0, 0, 0));
}

__global__ void counts_kernel(BoxScratch scratch, int64_t total, int thresholds, int64_t* counts) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < total) counts[index] = answer_of(scratch, index, thresholds, make_int4(1, 0, 0, 0)).x;
}

__global__ void ious_kernel(BoxScratch scratch, int64_t total, int thresholds, MapSize size,
                            GtBoxes gt, bool answers_are_boxes, float* best_ious) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= total) return;
  const int4 answer = answer_of(scratch, index, thresholds, make_int4(0, 0, 0, 0));
  const bool is_box = answers_are_boxes || scratch.cut_of_threshold[index] == kNoForeground;
  best_ious[index] =
      is_box ? best_iou(answer, size, gt, index / thresholds) : __int_as_float(answer.x);
}

// A block owns an (image, threshold) and fills its range, unless its cut's block did.
__global__ void repeat_kernel(BoxScratch scratch, int thresholds, const int64_t* offsets,
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
  BoxScratch scratch;

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
    const int words = size.words(), each = words_each(words, kPairThreads);
    const int wanted = (words + each - 1) / each;
    return (wanted + kWarpSize - 1) / kWarpSize * kWarpSize;
  }

  // Shared memory of up to so many ints, for pairs whose roots are dealt with in `parts` parts, or
  // one more.
  PairMemory shared_memory(int64_t ints, int parts, Answer answer) const {
    const int64_t elements = int64_t{size.pixels()} + 1, planes = planes_for(answer);
    ints = std::min(ints, pair_ints<ShortLabel>(size, elements, elements, answer));
    const int64_t left = std::max<int64_t>(0, ints - word_ints<ShortLabel>(size) - planes);
    const int64_t capacity = left * 2 * parts / (parts + 2 * planes);  // labels are half an int
    return {static_cast<int>(ints),
            static_cast<int>(std::min({capacity, elements, kMostShortLabels}))};
  }

  template <Answer kAnswer>
  void answer_pairs(const int64_t* offsets = nullptr, int4* boxes = nullptr) {
    const Question question{thresholds, gt, offsets, boxes};
    const int64_t elements = int64_t{size.pixels()} + 1;
    const int64_t fewest = std::min(elements, size.height * kFewestARow);
    const int64_t words = word_ints<ShortLabel>(size);
    const int64_t most = (shared_bytes_of_device(name) - int64_t{sizeof(Partial)}) / 4;
    const auto shared_bytes = [](const PairMemory& memory) {
      return sizeof(Partial) + memory.ints * sizeof(int);
    };
    PairMemory few =
        shared_memory(std::min(most, words + size.height * kFewIntsARow), kFewParts, kAnswer);
    if (few.capacity < fewest) few = {0, 0};
    const dim3 grid(static_cast<unsigned>(images), static_cast<unsigned>(scratch.slots));
    launch(name, pair_kernel<kAnswer>, grid, threads(), shared_bytes(few), stream, size, few,
           scratch, question);
    if (few.capacity == elements) return;
    const PairMemory many =
        shared_memory(std::min(most, words + size.height * kManyIntsARow), kManyParts, kAnswer);
    if (many.capacity > few.capacity && many.capacity >= fewest) {
      const auto blocks = std::min<int64_t>(2 * multiprocessors_of_device(name), pairs());
      launch(name, rest_kernel<kAnswer, ShortLabel>, static_cast<unsigned>(blocks), threads(),
             shared_bytes(many), stream, size, pairs(), many, scratch, question);
      if (many.capacity == elements) return;
    }
    launch(name, rest_kernel<kAnswer, int>, static_cast<unsigned>(scratch.blocks), threads(),
           sizeof(Partial), stream, size, pairs(), PairMemory{0, static_cast<int>(elements)},
           scratch, question);
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
  return BoxScratch({}, images, size_of(height, width), thresholds, Answer::kLargestBox).bytes;
}

int64_t count_boxes_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                  int64_t thresholds) {
  return BoxScratch({}, images, size_of(height, width), thresholds, Answer::kList).bytes;
}

int64_t best_box_iou_scratch_bytes(int64_t images, int64_t height, int64_t width,
                                   int64_t thresholds, bool all_contours) {
  const Answer answer = all_contours ? Answer::kBestIou : Answer::kLargestBox;
  return BoxScratch({}, images, size_of(height, width), thresholds, answer).bytes;
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
  // The scratch of the list, which list_boxes goes on with.
  Call call("extract_boxes", args.score_maps, args.thresholds, args.scratch, Answer::kList, stream);
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
