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

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include <rookery/concepts/metric.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/packed_states.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

struct WindowOptions {
  std::int64_t window_size = 10'000'000;   // rows, of all ranks together
  std::int64_t world_size = 1;             // ranks that share them; each keeps window_size / world_size, rounded up
  std::string name = "window";             // the values are called window_ne; two windows of one suite need two names
};

/// A measure of the latest batches that fit the window together, and of the last one at least. Batches enter whole, and leave in slices:
/// neighbours that together have no more rows than a hundredth of this rank's window. So a long window may be up to 1% short of its size,
/// and a window of less than a hundred batches is exact to the batch.
///
/// Errors: those of Samples and of the measure; ConfigError for sizes below 1.
/// Cost:   a measure's state for each slice, of which there are about a hundred, at most 202, however small the batches are; `value` merges
///         them.
/// Ranks:  the windows of all ranks merge to one; a merged window goes on as one batch of each rank's rows.
template <concepts::Measure Measure> class Windowed : public SampleMetric<Windowed<Measure>, prediction_kind_of<Measure>()> {
 public:
  explicit Windowed(Measure measure = Measure{}, WindowOptions options = {}) : empty_(std::move(measure)), options_(std::move(options)) {
    check<ConfigError>(options_.window_size >= 1, "Windowed: window_size is ", options_.window_size, "; it is 1 or more");
    check<ConfigError>(options_.world_size >= 1, "Windowed: world_size is ", options_.world_size, "; it is 1 or more");
    empty_.reset();
  }

  static constexpr bool needs_groups = needs_groups_of<Measure>();
  static constexpr bool one_kind = one_kind_of<Measure>();

  void check_rows(const Samples& samples) const {
    check_samples(empty_, samples);
    if constexpr (one_kind) kind_.check_same(samples);
  }
  void add(const Samples& samples) {
    check_samples(*this, samples);
    if (samples.size() == 0) return;
    kind_.keep(samples);
    const auto share = (options_.window_size - 1) / options_.world_size + 1;
    if (slices_.empty() || slices_.back().rows + samples.size() > share / 100) slices_.push_back({empty_, 0, 0});
    auto& slice = slices_.back();
    add_samples(slice.measure, samples);
    slice.rows += samples.size();
    ++slice.batches;
    rows_ += samples.size();
    while (rows_ > share && slices_.size() > 1) {
      rows_ -= slices_.front().rows;
      slices_.pop_front();
    }
  }

  std::int64_t rows() const { return rows_; }                                                 // in the window
  std::int64_t slices() const { return static_cast<std::int64_t>(slices_.size()); }           // the same
  std::int64_t batches() const {                                                              // the same
    std::int64_t batches = 0;
    for (const auto& slice : slices_) batches += slice.batches;
    return batches;
  }

  /// The measure of the window.
  Measure window() const {
    Measure whole = empty_;
    for (const auto& slice : slices_) whole.merge(slice.measure.pack());
    return whole;
  }

  std::string name() const requires concepts::HasMetricValue<Measure> { return concat(options_.name, "_", empty_.name()); }
  double value() const requires concepts::HasMetricValue<Measure> { return window().value(); }
  std::vector<MetricValue> values() const { return values_of(window(), options_.name + "_"); }

  void reset() {
    slices_.clear();
    rows_ = 0;
    kind_ = {};
  }

  /// The number of rows, and the state of the window.
  at::Tensor pack() const {
    return detail::pack_states({ops::full({1}, static_cast<double>(rows_), at::kDouble), window().pack()});
  }
  void merge(const at::Tensor& packed) {
    const auto states = detail::unpack_states(packed, 2, "Windowed");
    check<ShapeError>(states[0].numel() == 1, "Windowed: a packed state has ", states[0].numel(), " numbers of rows; it has one");
    const double rows = detail::numbers(states[0])[0];
    check<DataError>(rows >= 0 && rows < 0x1p53, "Windowed: a packed state has ", rows, " rows; it is 0 or more");
    Measure batch = empty_;
    batch.merge(states[1]);
    if (rows > 0) slices_.push_back({std::move(batch), static_cast<std::int64_t>(rows), 1});
    rows_ += static_cast<std::int64_t>(rows);
  }

 private:
  struct Slice {
    Measure measure;
    std::int64_t rows, batches;
  };

  Measure empty_;
  WindowOptions options_;
  std::deque<Slice> slices_;
  std::int64_t rows_ = 0;   // of slices_
  KeptKind kind_;
};

}  // namespace rookery
