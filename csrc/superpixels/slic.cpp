// CPU: one task an image where there are enough of them, else each step of an image on all threads.
// Segments keep the sums over their pixels, and a round adds to them only what changed.
#include "superpixels/slic.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/parallel_for.h"
#include "superpixels/connected_pieces.h"
#include "superpixels/nearest_centres.h"
#include "superpixels/slic_image.h"

namespace wsol::cpu {
namespace {

// What a thread works in, kept for its next call: for one small image, asking the system for memory
// again would take a fifth of the time.
struct Workspace {
  TiledImage image;
  ConnectedPieces pieces;

  int64_t bytes() const { return image.bytes() + pieces.bytes(); }
};
constexpr int64_t kMostKept = int64_t{1} << 25;  // bytes, of all threads together

// The k-means of image after image in the same memory.
class Segmentation {
 public:
  Segmentation(const Slic& args, int threads, Workspace& workspace)
      : args_(args),
        threads_(threads),
        image_(workspace.image),
        pieces_(workspace.pieces),
        nearest_(slic::scale_of(args, 0), args.least_contrast > 0),
        labels_(args.rows * args.columns),
        layers_(slic::layers_of(args)) {
    image_.resize(args.labels.size(1), args.labels.size(2), layers_);
    // A few parts a thread, but each keeps sums of its own.
    const int64_t parts = threads == 1 ? 1 : 2 * static_cast<int64_t>(threads);
    parts_.resize(std::min(parts, image_.strips));
    for (Part& part : parts_) part.changes.resize(layers_ * labels_);
  }

  void run(int64_t number) {
    const slic::Scale scale = slic::scale_of(args_, number);
    const bool adapts = args_.least_contrast > 0;
    if (args_.scales.data != nullptr) nearest_ = NearestCentres(scale, adapts);
    image_.colour_bits = nearest_.colour_bits();
    sums_.assign(layers_ * labels_, {});
    centres_.assign(layers_ * labels_, {slic::kNowhere, slic::kNowhere, {}});
    contrasts_.assign(adapts ? labels_ : 0, static_cast<int32_t>(args_.least_contrast));
    in_parts([&](int64_t begin, int64_t end, Part& part) {
      read_strips(args_, number, begin, end, image_, part.changes.data());
      part.changed = true;
    });
    bool changed = true;
    for (int64_t round = 0; changed && round < args_.max_num_iter; ++round) {
      move_centres();
      if (adapts && round > 0) find_contrasts();
      nearest_.prepare(image_, centres_, contrasts_, args_.least_contrast);
      changed = in_parts([&](int64_t begin, int64_t end, Part& part) {
        part.changed = nearest_.assign(begin, end, image_, part.changes.data());
      });
    }
    int32_t* segments = args_.labels.as<int32_t>() + number * image_.height * image_.width;
    if (args_.connect) {
      pieces_.write(image_, scale.pixels, sums_, segments, threads_);
    } else {
      write_labels(segments);
    }
  }

 private:
  struct Part {
    std::vector<SegmentSums> changes;  // zeros between steps
    std::vector<int32_t> contrasts;
    bool changed;
  };

  // Runs `step(begin, end, part)` over the strips of each part.
  template <typename Step>
  void for_parts(const Step& step) {
    const int64_t count = static_cast<int64_t>(parts_.size());
    parallel_for(count, 1, threads_, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        step(i * image_.strips / count, (i + 1) * image_.strips / count, parts_[i]);
      }
    });
  }

  // The same, and adds up the parts' changes; whether any.
  template <typename Step>
  bool in_parts(const Step& step) {
    for_parts(step);
    bool changed = false;
    for (Part& part : parts_) {
      if (!part.changed) continue;
      changed = true;
      for (size_t i = 0; i < sums_.size(); ++i) {
        sums_[i].lightness += part.changes[i].lightness;
        sums_[i].a += part.changes[i].a;
        sums_[i].b += part.changes[i].b;
        sums_[i].y += part.changes[i].y;
        sums_[i].x += part.changes[i].x;
        sums_[i].pixels += part.changes[i].pixels;
        part.changes[i] = {};
      }
    }
    return changed;
  }

  void move_centres() {
    for (int64_t i = 0; i < layers_ * labels_; ++i) {
      const SegmentSums &sum = sums_[i], &of_places = sums_[i % labels_];
      const int64_t pixels = of_places.pixels;
      if (pixels == 0) continue;  // it stays where it was
      const auto place = [&](int64_t total) {
        return slic::rounded_mean(total * slic::kPlaceUnit, pixels);
      };
      const auto colour = [&](int64_t total) {
        return slic::rounded_mean(total >> image_.colour_bits, pixels);
      };
      centres_[i] = {place(of_places.y),
                     place(of_places.x),
                     {colour(sum.lightness), colour(sum.a), colour(sum.b)}};
    }
  }

  // The largest contrasts of pixels to their centres, of which each centre keeps the largest.
  void find_contrasts() {
    for_parts([&](int64_t begin, int64_t end, Part& part) {
      part.contrasts.assign(labels_, 0);
      nearest_.find_contrasts(begin, end, image_, centres_, part.contrasts.data());
    });
    for (const Part& part : parts_) {
      for (int64_t i = 0; i < labels_; ++i) {
        contrasts_[i] = std::max(contrasts_[i], part.contrasts[i]);
      }
    }
  }

  // The labels, numbered consecutively in the order of centres.
  void write_labels(int32_t* segments) const {
    std::vector<int32_t> numbers(labels_);
    int32_t count = 0;
    for (int64_t i = 0; i < labels_; ++i) {
      if (sums_[i].pixels > 0) numbers[i] = count++;
    }
    for (int64_t y = 0; y < image_.height; ++y) {
      for (int64_t x = 0; x < image_.width; x += kTileColumns) {
        const int32_t* labels = image_.labels.get() + image_.index(y, x);
        const int64_t columns = std::min(kTileColumns, image_.width - x);
        for (int64_t i = 0; i < columns; ++i) {
          *segments++ = labels[i] < 0 ? -1 : numbers[labels[i]];
        }
      }
    }
  }

  const Slic& args_;
  int threads_;
  TiledImage& image_;
  ConnectedPieces& pieces_;
  NearestCentres nearest_;
  int64_t labels_, layers_;
  std::vector<Centre> centres_;    // (layers, labels)
  std::vector<SegmentSums> sums_;  // likewise, of the labels' pixels
  std::vector<int32_t> contrasts_;
  std::vector<Part> parts_;
};

}  // namespace

void slic(const Slic& args, int threads) {
  const int64_t images = args.images.size(0);
  if (args.rows * args.columns == 1 && args.start.data == nullptr) {
    std::fill_n(args.labels.as<int32_t>(), images * args.labels.size(1) * args.labels.size(2), 0);
    return;
  }
  const bool by_image = images >= threads;
  parallel_for(by_image ? images : 1, 1, threads, [&](int64_t begin, int64_t end) {
    thread_local Workspace workspace;
    Segmentation segmentation(args, by_image ? 1 : threads, workspace);
    if (!by_image) end = images;
    for (int64_t i = begin; i < end; ++i) segmentation.run(i);
    if (workspace.bytes() > kMostKept / (by_image ? threads : 1)) workspace = {};
  });
}

}  // namespace wsol::cpu
