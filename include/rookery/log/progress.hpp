// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Progress: how far a run is, how fast, and how long it will take. One line that is rewritten on a terminal, a line now and then
// where the output goes to a file.
//
//   Progress progress{topology, {.total_samples = epochs * rows}};
//   progress.add(batch.size());
//   if (progress.due()) progress({{"loss", mean}, {"auc", auc.value()}});
//   progress.finish({{"loss", mean}});
//
//   1.2M of 5M samples (24%)  loss 0.5123  auc 0.7788  81.3k samples/s  ETA 0:47
//
// Include cost: tensor.

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include <rookery/concepts/topology.hpp>
#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/human.hpp>
#include <rookery/log/console.hpp>
#include <rookery/log/log_values.hpp>
#include <rookery/metrics/throughput.hpp>

namespace rookery {

/// How progress is written: `rewritten` when the output is a terminal, else `lines`, unless one of them is asked for.
enum class ProgressStyle { automatic, rewritten, lines };

struct ProgressOptions {
  std::int64_t total_samples = 0;                // of the whole run; 0: not known, and no ETA
  double interval_seconds = 10;                  // between lines; a terminal's is rewritten at most ten times a second
  ProgressStyle style = ProgressStyle::automatic;
  std::FILE* out = stderr;
};

/// Progress of a run, written by rank 0; the other ranks write nothing and their `due()` is false, so nothing that ranks do together
/// may depend on it. Samples a second are those of the last half minute.
///
/// Errors: ConfigError for an interval that is not positive, and for a negative total.
class Progress {
 public:
  template <class Topology>
    requires(!std::is_same_v<Topology, Progress> && concepts::Topology<Topology>)  // the first: whether a Progress can be copied asks here
  explicit Progress(const Topology& topology, ProgressOptions options = {}, Clock::time_point now = Clock::now())
      : options_(options), writes_(topology.rank() == 0), written_(now) {
    check<ConfigError>(options.interval_seconds > 0, "Progress: interval_seconds is ", options.interval_seconds, "; it must be positive");
    check<ConfigError>(options.total_samples >= 0, "Progress: total_samples is ", options.total_samples, "; it must not be negative");
    rewrites_ = options.style == ProgressStyle::automatic ? isatty(fileno(options.out)) == 1 : options.style == ProgressStyle::rewritten;
    rate_.add(0, now);
  }

  /// Counts samples of all ranks.
  void add(std::int64_t samples, Clock::time_point now = Clock::now()) { rate_.add(samples, now); }

  /// Whether it is time to write.
  bool due(Clock::time_point now = Clock::now()) const {
    const double seconds = std::chrono::duration<double>(now - written_).count();
    return writes_ && seconds >= (rewrites_ ? .1 : options_.interval_seconds);
  }

  /// Writes how far the run is, with these values.
  void operator()(const LogValues& values, Clock::time_point now = Clock::now()) {
    if (!writes_) return;
    written_ = now;
    // no wrapping while a long line is written, or its rest could not be rewritten
    write(rewrites_ ? concat("\r\x1b[?7l", line(values), "\x1b[K\x1b[?7h") : line(values) + "\n");
    open_ = rewrites_;
  }

  /// Writes a line of its own, above the progress.
  void print(std::string_view text) {
    if (!writes_) return;
    write(concat(open_ ? "\r\x1b[K" : "", text, "\n"));
    open_ = false;
  }

  /// Writes a step's values as a line of their own, above the progress: a progress is a sink too.
  void operator()(std::int64_t step, const LogValues& values) { print(Console::line(step, values)); }

  /// Writes the last state and ends the line.
  void finish(const LogValues& values, Clock::time_point now = Clock::now()) {
    (*this)(values, now);
    if (open_) write("\n");
    open_ = false;
  }

  /// Leaves out the time since the last `add`: an evaluation or a checkpoint that is over now.
  void resume(Clock::time_point now = Clock::now()) { rate_.resume(now); }

  /// "1.2M of 5M samples (24%)  loss 0.5123  81.3k samples/s  ETA 0:47"
  std::string line(const LogValues& values) const {
    const auto done = rate_.total_samples(), total = options_.total_samples;
    std::string text = human_count(static_cast<double>(done));
    if (total > 0) text += concat(" of ", human_count(static_cast<double>(total)));
    text += " samples";
    if (total > 0) text += concat(" (", 100 * done / total, "%)");
    text += detail::human_values(values);
    const double rate = rate_.value();
    if (rate > 0) text += concat("  ", human_count(rate), " samples/s");
    if (rate > 0 && total > done) text += concat("  ETA ", human_duration(static_cast<double>(total - done) / rate));
    return text;
  }

 private:
  void write(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), options_.out);      // a full disk or a closed pipe must not end a training run
    std::fflush(options_.out);
  }

  ProgressOptions options_;
  bool writes_, rewrites_ = false, open_ = false;          // open: a line that can be rewritten
  Clock::time_point written_;
  Throughput rate_{{.warmup_updates = 0, .window_seconds = 30}};
};

}  // namespace rookery
