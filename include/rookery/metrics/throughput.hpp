// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Throughput: samples a second over the latest stretch of training, the first updates left out.
//
// Answers to torchrec/metrics/throughput.py (warm-up of 100 updates, window of 100 s), and to the-algorithm-ml's examples/s, which
// counts one batch of one rank; here ranks add up.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <string_view>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

struct ThroughputOptions {
  std::int64_t warmup_updates = 100;   // allocations, caches and first exchanges are no measure
  double window_seconds = 100;
};

/// Samples a second over the updates of the last `window_seconds`, after `warmup_updates`; NaN before the first measured one. An
/// update is timed from the end of the one before it.
///
/// Errors: ConfigError for a negative warm-up or a window that is not positive.
/// Cost:   16 bytes for each update in the window.
/// Ranks:  samples add up, and the longest window counts, for ranks work at the same time.
class Throughput {
 public:
  explicit Throughput(ThroughputOptions options = {}) : options_(options) {
    check<ConfigError>(options.warmup_updates >= 0, "Throughput: warmup_updates is ", options.warmup_updates, "; it is 0 or more");
    check<ConfigError>(options.window_seconds > 0, "Throughput: window_seconds is ", options.window_seconds, "; it is more than 0");
  }

  static constexpr std::string_view name() { return "samples_per_s"; }

  /// Counts the rows of a batch, whatever they hold.
  void update(const at::Tensor& predictions, const at::Tensor&, const at::Tensor& = {}) { add(predictions.numel()); }
  void add(const Samples& samples) { add(samples.size()); }
  void add(std::int64_t samples, Clock::time_point now = Clock::now()) {
    total_ += samples;
    if (++updates_ > options_.warmup_updates && last_) push({now - *last_, samples});
    last_ = now;
  }

  /// Leaves out the time since the last update: an evaluation or a checkpoint that is over now.
  void resume(Clock::time_point now = Clock::now()) {
    if (last_) last_ = now;
  }

  void reset() { *this = Throughput(options_); }

  double value() const {
    const double longest = std::max(own_seconds(), merged_.seconds);
    return longest > 0 ? (static_cast<double>(in_window_.samples) + merged_.samples) / longest : std::numeric_limits<double>::quiet_NaN();
  }
  std::int64_t total_samples() const { return total_; }   // warm-up included, merged ranks too

  /// Samples and seconds in the window, and samples in all.
  at::Tensor pack() const {
    auto packed = ops::empty({3}, at::kDouble);                                    // [3]
    auto* to = packed.mutable_data_ptr<double>();
    to[0] = static_cast<double>(in_window_.samples) + merged_.samples;
    to[1] = std::max(own_seconds(), merged_.seconds);
    to[2] = static_cast<double>(total_);
    return packed;
  }

  void merge(const at::Tensor& packed) {
    const auto host = detail::host_column(packed, "Throughput: a packed state");                // [3]
    const auto from = detail::numbers(host);
    check<ShapeError>(from.size() == 3, "Throughput: a packed state has ", from.size(), " numbers; it is made of 3");
    merged_.samples += from[0];
    merged_.seconds = std::max(merged_.seconds, from[1]);
    total_ += static_cast<std::int64_t>(from[2]);
  }

 private:
  struct Interval {
    Clock::duration time{};
    std::int64_t samples = 0;
  };
  struct Merged {
    double samples = 0, seconds = 0;
  };

  double own_seconds() const { return std::chrono::duration<double>(in_window_.time).count(); }

  void push(Interval update) {
    window_.push_back(update);
    in_window_.time += update.time;
    in_window_.samples += update.samples;
    while (window_.size() > 1 && own_seconds() > options_.window_seconds) {
      in_window_.time -= window_.front().time;
      in_window_.samples -= window_.front().samples;
      window_.pop_front();
    }
  }

  ThroughputOptions options_;
  std::deque<Interval> window_;
  Interval in_window_;                      // sum of window_
  Merged merged_;                           // what came from other ranks
  std::optional<Clock::time_point> last_;   // end of the update before
  std::int64_t updates_ = 0, total_ = 0;
};

}  // namespace rookery
