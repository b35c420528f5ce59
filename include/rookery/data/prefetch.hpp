// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// prefetch(source, depth): the next batches are built on one thread of their own while the current one is trained on.
//
//   for (TableBatch& batch : prefetch(reader.epoch(Part::train, epoch), 2)) ...
// Answers to torch's DataLoader with workers, and to torchrec's benchmark data pipeline.  Include cost: none.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include <rookery/core/error.hpp>
#include <rookery/data/batches.hpp>

namespace rookery {

/// Draws from `source` ahead of its reader, at most `depth` batches; the batches and their order are the source's.
///
/// What the source throws is thrown by the `next()` that would have given its batch; after it the range is at its end. The destructor
/// waits for at most the one batch that is being built. What the source refers to outlives this.
/// Errors: ConfigError for a depth below 1.
template <BatchSource Source> class Prefetch {
 public:
  Prefetch(Source source, std::int64_t depth) : source_(std::move(source)), depth_(static_cast<std::size_t>(depth)) {
    check<ConfigError>(depth >= 1, "prefetch: depth ", depth, " must be at least 1");
    thread_ = std::thread([this] { run(); });
  }
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;
  ~Prefetch() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// The next batch, or nothing at the end; waits until it is built.
  std::optional<BatchOf<Source>> next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || ended_; });
    if (ready_.empty()) {
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      return {};
    }
    std::optional<BatchOf<Source>> batch(std::move(ready_.front()));
    ready_.pop_front();
    changed_.notify_all();
    return batch;
  }

  auto begin() { return NextIterator<Prefetch>{*this}; }
  std::default_sentinel_t end() const { return {}; }

 private:
  void run() {
    try {
      while (auto batch = source_.next()) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return ready_.size() < depth_ || stopping_; });
        if (stopping_) return;
        ready_.push_back(std::move(*batch));
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

  Source source_;
  std::size_t depth_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<BatchOf<Source>> ready_;
  std::exception_ptr error_;
  bool ended_ = false, stopping_ = false;
  std::thread thread_;
};

/// The source, built ahead by one thread.
template <BatchSource Source> Prefetch<Source> prefetch(Source source, std::int64_t depth = 2) { return {std::move(source), depth}; }

}  // namespace rookery
