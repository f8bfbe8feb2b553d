// CUDA: an image's distinct cuts are told apart first, then every (image, cut) pair has a block of
// its own, in chunks that fit the scratch memory.
//
//   read     a block owns an image: quantizes it and finds its distinct cuts. Reads the map once,
//            writes a byte a pixel.
//   pairs    a block owns an (image, cut): labels its components and reduces their boxes to one
//            answer (cut_contours.cuh). In shared memory: a partial result a warp. Moves 4-byte
//            labels about ten times; limited by the latency of chains of labels, then by bandwidth.
//   answers  a thread owns an (image, threshold) and takes the answer of its cut.
#include <algorithm>

#include "boxes/cut_contours.cuh"
#include "boxes/extract_boxes.h"
#include "boxes/iou.h"
#include "core/scratch.h"

namespace wsol::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kMaxCuts = 255;  // cuts 0..254 lie below a largest value of up to 255
constexpr int kNoForeground = -1;
constexpr size_t kShared = kThreads / kWarpSize * sizeof(uint64_t);
// Pairs are worked on in chunks whose scratch stays below this, but for a pair that alone needs
// more.
#if defined(WSOL_PAIR_SCRATCH_BYTES)  // the emulated build: so little that every test has many
                                      // chunks
constexpr int64_t kPairScratchBytes = WSOL_PAIR_SCRATCH_BYTES;
#else
constexpr int64_t kPairScratchBytes = int64_t{256} << 20;
#endif

enum class Answer { kLargestBox, kMostPixelsBox, kBestIou, kCount, kList };

// Ints of scratch a pixel: its label, and by root the area or the pixels, or three bounds of the
// box.
__host__ __device__ constexpr int planes_for(Answer answer) {
  return answer == Answer::kLargestBox || answer == Answer::kMostPixelsBox ? 2 : 4;
}

// The scratch memory, cut up.
struct Scratch {
  uint8_t* quantized;     // (B, H * W)
  int* cuts;              // (B,): how many distinct cuts the image has
  int* cut_values;        // (B, S)
  int* first_thresholds;  // (B, S): the first threshold with this cut
  int* cut_of_threshold;  // (B, T): index of its cut, or kNoForeground
  int4* answers;          // (B, S): a box, or in x the best IoU's bits or the number of boxes
  int* planes;            // (pairs at once, planes, H * W + 1): labels, then sums or bounds by root
  int slots;              // S: cuts an image can have
  int64_t pairs_at_once, bytes;

  Scratch(const TensorView& memory, int64_t images, MapSize size, int64_t thresholds, Answer answer)
      : slots(static_cast<int>(std::min<int64_t>(thresholds, kMaxCuts))) {
    ScratchParts parts(memory);
    parts.take(quantized, images * size.pixels());
    parts.take(cuts, images);
    parts.take(cut_values, images * slots);
    parts.take(first_thresholds, images * slots);
    parts.take(cut_of_threshold, images * thresholds);
    parts.take(answers, images * slots);
    const int64_t ints_a_pair = int64_t{planes_for(answer)} * (size.pixels() + 1);
    pairs_at_once = std::clamp<int64_t>(kPairScratchBytes / (4 * ints_a_pair), 1, images * slots);
    parts.take(planes, pairs_at_once * ints_a_pair);
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
__global__ void read_kernel(ScoreMaps<T> maps, const double* thresholds, int count,
                            const float* gt_boxes, int gt_values, Scratch scratch, int* status) {
  int* partial = reinterpret_cast<int*>(dynamic_shared());  // a value a warp
  int* first_of_cut = partial + kThreads / kWarpSize;       // (256,), then the cut's index
  const int64_t image = blockIdx.x;
  const int pixels = maps.size.pixels();
  uint8_t* quantized = scratch.quantized + image * pixels;
  int largest = 0, wrong = 0;
  for (int p = threadIdx.x; p < pixels; p += blockDim.x) {
    const int64_t x = p % maps.size.width, y = p / maps.size.width;
    const T stored = maps.data[image * maps.image_stride + y * maps.row_stride + x];
    const auto score = static_cast<double>(Element<T>::load(stored));
    const bool good = score >= 0.0 && score <= 1.0;
    if (!good) wrong |= kBadScore;
    const int u = good ? static_cast<int>(255.0 * score) : (score > 1.0 ? 255 : 0);
    quantized[p] = static_cast<uint8_t>(u);
    largest = max(largest, u);
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

  if (threadIdx.x == 0) {
    int index = 0;
    for (int cut = 0; cut < 256; ++cut) {
      if (first_of_cut[cut] == count) continue;
      scratch.cut_values[image * scratch.slots + index] = cut;
      scratch.first_thresholds[image * scratch.slots + index] = first_of_cut[cut];
      first_of_cut[cut] = index++;
    }
    scratch.cuts[image] = index;
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
  for (int g = 0; g < gt.count; ++g) {
    const float* b = gt.data + (image * gt.count + g) * 4;
    const bool padding = b[0] == -1.0f && b[1] == -1.0f && b[2] == -1.0f && b[3] == -1.0f;
    const bool finite = isfinite(b[0]) && isfinite(b[1]) && isfinite(b[2]) && isfinite(b[3]);
    if (padding || !finite) continue;
    best = fmaxf(best, iou_of(clipped, area, box_at(b), 1.0f));
  }
  return best;
}

template <Answer kAnswer>
__global__ void __launch_bounds__(kThreads)
    pair_kernel(MapSize size, Scratch scratch, int64_t first_pair, int thresholds, GtBoxes gt,
                const int64_t* offsets, int4* boxes) {
  const int64_t pair = first_pair + blockIdx.x, image = pair / scratch.slots;
  if (pair % scratch.slots >= scratch.cuts[image]) return;
  const uint8_t* u = scratch.quantized + image * size.pixels();
  const int cut = scratch.cut_values[pair];
  const int64_t plane = static_cast<int64_t>(size.pixels()) + 1;
  int* planes = scratch.planes + static_cast<int64_t>(blockIdx.x) * planes_for(kAnswer) * plane;
  int4 answer = make_int4(0, 0, 0, 0);
  if constexpr (kAnswer == Answer::kLargestBox) {
    answer = largest_box(u, cut, size, planes, planes + plane);
  } else if constexpr (kAnswer == Answer::kMostPixelsBox) {
    answer = most_pixels_box(u, cut, size, planes, planes + plane);
  } else {
    const ContourRoots map{
        u, cut, size, planes, planes + plane, planes + 2 * plane, planes + 3 * plane};
    label_all(map);
    if constexpr (kAnswer == Answer::kList) {
      const int64_t at = image * thresholds + scratch.first_thresholds[pair];
      list_contours(map, boxes + offsets[at]);
    } else if constexpr (kAnswer == Answer::kBestIou) {
      float best = 0;
      for_each_pixel(size, [&](int p, bool inside) {
        if (inside && map.is_root(p)) best = fmaxf(best, best_iou(map.box(p), size, gt, image));
      });
      answer.x = __float_as_int(block_max(best, reinterpret_cast<float*>(dynamic_shared())));
    } else {
      for_each_pixel(size, [&](int p, bool inside) { answer.x += inside && map.is_root(p); });
      answer.x = block_sum(answer.x, reinterpret_cast<int*>(dynamic_shared()));
    }
  }
  if (threadIdx.x == 0) scratch.answers[pair] = answer;
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

  // No more threads than pixels, but whole warps.
  int threads() const {
    return std::min(kThreads, (size.pixels() + kWarpSize - 1) / kWarpSize * kWarpSize);
  }

  void read(const TensorView& score_maps, const TensorView& threshold_list,
            const TensorView& status) {
    with_floating_type(name, score_maps.dtype, [&]<typename T>(ElementTag<T>) {
      const ScoreMaps<T> maps{score_maps.as<T>(), score_maps.stride(0), score_maps.stride(1), size};
      const size_t shared = (kThreads / kWarpSize + 256) * sizeof(int);
      launch(name, read_kernel<T>, static_cast<unsigned>(images), threads(), shared, stream, maps,
             threshold_list.as<double>(), thresholds, gt.data, gt.count * 4, scratch,
             status.as<int>());
    });
  }

  template <Answer kAnswer>
  void answer_pairs(const int64_t* offsets = nullptr, int4* boxes = nullptr) {
    const int64_t pairs = images * scratch.slots;
    for (int64_t first = 0; first < pairs; first += scratch.pairs_at_once) {
      const auto blocks = static_cast<unsigned>(std::min(scratch.pairs_at_once, pairs - first));
      launch(name, pair_kernel<kAnswer>, blocks, threads(), kShared, stream, size, scratch, first,
             thresholds, gt, offsets, boxes);
    }
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
