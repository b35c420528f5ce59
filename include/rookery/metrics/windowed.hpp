// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Windowed: any metric, or suite, over the latest rows. A metric by itself counts over its whole life, so a suite of both says how the
// model is and how it was:
//
//   rk::MetricSuite metrics{rk::NormalizedEntropy{}, rk::Windowed{rk::NormalizedEntropy{}, {.window_size = 1'000'000}}};   // ne, window_ne
//
// Answers to the window state of torchrec/metrics/rec_metric.py (`window_ne` beside `lifetime_ne`); differs: any metric that merges has a
// window, and no number of batches ends it early.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include <rookery/concepts/metric.hpp>
#include <rookery/core/error.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/packed_states.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

struct WindowOptions {
  std::int64_t window_size = 10'000'000;   // rows, of all ranks together
  std::int64_t world_size = 1;             // ranks that share them; each keeps window_size / world_size, rounded up
};

/// A measure of the latest batches that fit the window together, and of the last one at least. Whole batches enter and leave.
///
/// Errors: those of Samples and of the measure; ConfigError for sizes below 1.
/// Cost:   a measure's state for each batch in the window; `value` merges them.
/// Ranks:  the windows of all ranks merge to one; a merged window goes on as one batch of each rank's rows.
template <concepts::Measure Measure> class Windowed : public SampleMetric<Windowed<Measure>, prediction_kind_of<Measure>()> {
 public:
  explicit Windowed(Measure measure = Measure{}, WindowOptions options = {}) : empty_(std::move(measure)), options_(options) {
    check<ConfigError>(options.window_size >= 1, "Windowed: window_size is ", options.window_size, "; it is 1 or more");
    check<ConfigError>(options.world_size >= 1, "Windowed: world_size is ", options.world_size, "; it is 1 or more");
    empty_.reset();
  }

  void add(const Samples& samples) {
    if (samples.size() == 0) return;
    Measure batch = empty_;
    add_samples(batch, samples);
    push(std::move(batch), samples.size());
    const auto share = (options_.window_size - 1) / options_.world_size + 1;
    while (rows_ > share && batches_.size() > 1) {
      rows_ -= batches_.front().rows;
      batches_.pop_front();
    }
  }

  std::int64_t rows() const { return rows_; }                                                 // in the window
  std::int64_t batches() const { return static_cast<std::int64_t>(batches_.size()); }         // the same

  /// The measure of the window.
  Measure window() const {
    Measure whole = empty_;
    for (const auto& batch : batches_) whole.merge(batch.measure.pack());
    return whole;
  }

  std::string name() const requires concepts::HasMetricValue<Measure> { return concat("window_", empty_.name()); }
  double value() const requires concepts::HasMetricValue<Measure> { return window().value(); }
  std::vector<MetricValue> values() const { return values_of(window(), "window_"); }

  void reset() {
    batches_.clear();
    rows_ = 0;
  }

  /// The number of rows, and the state of the window.
  at::Tensor pack() const {
    return detail::pack_states({at::full({1}, static_cast<double>(rows_), at::kDouble), window().pack()});
  }
  void merge(const at::Tensor& packed) {
    const auto states = detail::unpack_states(packed, 2, "Windowed");
    check<ShapeError>(states[0].numel() == 1, "Windowed: a packed state has ", states[0].numel(), " numbers of rows; it has one");
    const auto rows = static_cast<std::int64_t>(detail::numbers(states[0])[0]);
    Measure batch = empty_;
    batch.merge(states[1]);
    if (rows > 0) push(std::move(batch), rows);
  }

 private:
  struct Batch {
    Measure measure;
    std::int64_t rows;
  };

  void push(Measure measure, std::int64_t rows) {
    batches_.push_back({std::move(measure), rows});
    rows_ += rows;
  }

  Measure empty_;
  WindowOptions options_;
  std::deque<Batch> batches_;
  std::int64_t rows_ = 0;   // of batches_
};

}  // namespace rookery
