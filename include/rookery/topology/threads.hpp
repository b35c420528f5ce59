// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Threads: N ranks as threads of one process, with a real exchange through memory. CPU only.
//
// A verb posts its tensors under the rank's next sequence number and returns; wait() sleeps until all ranks have posted that
// number, then copies what is for this rank. Sums are taken in rank order, so results are bit-equal on all ranks and from run
// to run. Every wait has a deadline and ends when any rank fails; a rank that leaves early or calls another verb than the rest
// is named.  Answers to TorchRec's multi-process test harness, in one process.  Include cost: tensor.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/topology/fingerprint.hpp>
#include <rookery/topology/one_line.hpp>

namespace rookery {

struct ThreadsOptions {
  std::chrono::milliseconds timeout = std::chrono::minutes(10);   // of every wait
  int local_world_size = 0;                                       // ranks on each pretended node; 0: all on one
};

namespace detail {

/// What one rank brought to one collective.
struct ThreadsPost {
  std::string_view verb{};
  at::Tensor tensor{};
  Counts counts{};        // rows for each rank, where the verb has them
};

/// The meeting place of the ranks of one run.
class ThreadsHub {
 public:
  ThreadsHub(int ranks, ThreadsOptions options) : options_(options), ranks_(static_cast<std::size_t>(ranks)) {}

  int world_size() const { return static_cast<int>(ranks_.size()); }
  int local_world_size() const { return options_.local_world_size > 0 ? options_.local_world_size : world_size(); }

  /// Brings `post`, which is `said` in words, to the rank's next collective and returns its number.
  std::int64_t post(int rank, ThreadsPost post, std::string said) {
    const std::lock_guard lock(mutex_);
    auto& self = ranks_[static_cast<std::size_t>(rank)];
    self.verb = post.verb;
    auto& meeting = meetings_[self.posted];
    meeting.posts.resize(ranks_.size());
    meeting.said.resize(ranks_.size());
    meeting.posts[static_cast<std::size_t>(rank)] = std::move(post);
    meeting.said[static_cast<std::size_t>(rank)] = std::move(said);
    ++meeting.arrived;
    changed_.notify_all();
    return self.posted++;
  }

  /// Waits until all ranks have come to collective `number`; gives what they brought. Each rank takes it once. Gives up when a rank has
  /// ended that had not come to it, and then only: how far each rank gets does not depend on when another one failed.
  std::vector<ThreadsPost> take(int rank, std::int64_t number) {
    std::unique_lock lock(mutex_);
    auto& meeting = meetings_[number];
    const auto verb = meeting.posts[static_cast<std::size_t>(rank)].verb;
    const auto deadline = Clock::now() + options_.timeout;
    while (meeting.arrived < ranks_.size()) {
      for (std::size_t other = 0; other < ranks_.size(); ++other) {
        if (ranks_[other].ended_at < 0 || ranks_[other].ended_at > number) continue;
        if (aborted_) throw Aborted(concat("rank ", rank, " stopped: ", cause_));
        fail<CommunicationError>("rank ", other, " returned before ", verb, " number ", number, ", which rank ", rank, " waits in",
                                 same_batches);
      }
      if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && meeting.arrived < ranks_.size())
        fail<CommunicationError>(verb, " number ", number, " on rank ", rank, " waited ", options_.timeout.count(), " ms for rank ",
                                 absent(meeting));
    }
    const auto wrong = disagreement(number, meeting.said);
    check<CommunicationError>(wrong.empty(), wrong);
    auto posts = meeting.posts;
    if (++meeting.taken == ranks_.size()) meetings_.erase(number);
    return posts;
  }

  /// A rank has failed, and all are to end; the first cause is the one reported.
  void abort(int rank, std::string_view cause) {
    const std::lock_guard lock(mutex_);
    if (!aborted_) cause_ = cause;
    aborted_ = true;
    end(rank);
  }
  /// A rank comes to no other collective.
  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    end(rank);
  }
  void at_step(int rank, std::int64_t step) {
    const std::lock_guard lock(mutex_);
    ranks_[static_cast<std::size_t>(rank)].step = step;
  }
  /// "rank 1, step 12, after all_reduce": where a rank is, for messages.
  std::string where(int rank) {
    const std::lock_guard lock(mutex_);
    const auto& self = ranks_[static_cast<std::size_t>(rank)];
    return concat("rank ", rank, ", step ", self.step, ", ",
                  self.verb.empty() ? "before any collective" : concat("after ", self.verb, " number ", self.posted - 1));
  }

  /// Why the run was aborted; empty when it was not.
  std::string cause() {
    const std::lock_guard lock(mutex_);
    return aborted_ ? cause_ : "";
  }

  /// Thrown in the ranks that end because another one failed.
  class Aborted : public CommunicationError { using CommunicationError::CommunicationError; };

 private:
  struct Rank {
    std::int64_t posted = 0, step = 0, ended_at = -1;         // collectives it came to, once it has ended
    std::string_view verb;
  };
  struct Meeting {
    std::vector<ThreadsPost> posts;
    std::vector<std::string> said;
    std::size_t arrived = 0, taken = 0;
  };
  void end(int rank) {
    auto& self = ranks_[static_cast<std::size_t>(rank)];
    if (self.ended_at < 0) self.ended_at = self.posted;
    changed_.notify_all();
  }
  std::size_t absent(const Meeting& meeting) const {
    std::size_t rank = 0;
    while (rank + 1 < ranks_.size() && !meeting.posts[rank].verb.empty()) ++rank;
    return rank;
  }

  ThreadsOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Rank> ranks_;
  std::map<std::int64_t, Meeting> meetings_;
  bool aborted_ = false;
  std::string cause_;
};

}  // namespace detail

/// One rank of a run on threads. Made by `run`.
class Threads {
 public:
  static constexpr bool is_distributed = true, has_device = false;
  static constexpr std::string_view name = "threads";

  /// Runs `fn(Threads)` on `ranks` threads and waits for all. LibTorch's threads are divided among them.
  /// Errors: when a rank throws, all end, and the first cause is thrown again here in one line that names rank, step and the
  /// last collective, with the type of the original exception where it is one of ours.
  template <class Fn> static void run(int ranks, Fn&& fn, ThreadsOptions options = {});

  int rank() const { return rank_; }
  int world_size() const { return hub_->world_size(); }
  int local_world_size() const { return hub_->local_world_size(); }
  c10::Device device() const { return c10::Device(c10::DeviceType::CPU); }
  /// Tells error messages which step this rank is at.
  void at_step(std::int64_t step) { hub_->at_step(rank_, step); }
  void abort(std::string_view cause) { hub_->abort(rank_, concat(hub_->where(rank_), ": ", cause)); }

  auto all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts);
  auto all_reduce(at::Tensor tensor, ReduceOp op);
  auto reduce_scatter_v(at::Tensor tensor, Counts counts);
  auto all_gather_v(at::Tensor tensor);
  auto broadcast(at::Tensor tensor, int root);
  auto barrier();

 private:
  Threads(std::shared_ptr<detail::ThreadsHub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}

  /// A posted collective; `Finish` turns what all ranks brought into this rank's result.
  template <class Finish> struct Handle {
    std::shared_ptr<detail::ThreadsHub> hub;
    int rank;
    std::int64_t number;
    Finish finish;
    auto wait() {
      check<Error>(hub != nullptr, "a handle of rank ", rank, " is waited for twice");
      return finish(std::exchange(hub, nullptr)->take(rank, number));
    }
  };
  template <class Finish> Handle<Finish> meet(detail::ThreadsPost post, std::string said, Finish finish) {
    return {hub_, rank_, hub_->post(rank_, std::move(post), std::move(said)), std::move(finish)};
  }
  static at::Tensor reduced(const std::vector<detail::ThreadsPost>& posts, ReduceOp op, std::int64_t begin, std::int64_t count);

  std::shared_ptr<detail::ThreadsHub> hub_;
  int rank_;
};

inline auto Threads::all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts) {
  auto said = detail::with_counts(detail::fingerprint_of_all_to_all_v(send), send_counts, recv_counts);
  return meet({.verb = "all_to_all_v", .tensor = std::move(send), .counts = std::move(send_counts)}, std::move(said),
              [rank = static_cast<std::size_t>(rank_)](const std::vector<detail::ThreadsPost>& posts) {
                std::vector<at::Tensor> parts;
                for (const auto& post : posts) {
                  std::int64_t begin = 0;
                  for (std::size_t to = 0; to < rank; ++to) begin += post.counts.at(to);
                  parts.push_back(post.tensor.narrow(0, begin, post.counts.at(rank)));       // [counts[rank], ...]
                }
                return ops::cat(parts);                                                      // [sum(recv_counts), ...]
              });
}

inline at::Tensor Threads::reduced(const std::vector<detail::ThreadsPost>& posts, ReduceOp op, std::int64_t begin, std::int64_t count) {
  const auto part = [&](std::size_t rank) { return count < 0 ? posts[rank].tensor : posts[rank].tensor.narrow(0, begin, count); };
  auto total = part(0).detach().clone();
  for (std::size_t rank = 1; rank < posts.size(); ++rank) {
    if (op == ReduceOp::sum) total.add_(part(rank));
    else total = op == ReduceOp::max ? total.maximum(part(rank)) : total.minimum(part(rank));
  }
  return total;
}

inline auto Threads::all_reduce(at::Tensor tensor, ReduceOp op) {
  auto said = detail::fingerprint_of_all_reduce(tensor, op);
  return meet({.verb = "all_reduce", .tensor = std::move(tensor)}, std::move(said),
              [op](const std::vector<detail::ThreadsPost>& posts) { return reduced(posts, op, 0, -1); });
}

inline auto Threads::reduce_scatter_v(at::Tensor tensor, Counts counts) {
  auto said = detail::fingerprint_of_reduce_scatter_v(tensor, counts);
  return meet({.verb = "reduce_scatter_v", .tensor = std::move(tensor), .counts = std::move(counts)}, std::move(said),
              [rank = static_cast<std::size_t>(rank_)](const std::vector<detail::ThreadsPost>& posts) {
                std::int64_t begin = 0;
                for (std::size_t to = 0; to < rank; ++to) begin += posts[rank].counts.at(to);
                return reduced(posts, ReduceOp::sum, begin, posts[rank].counts.at(rank));
              });
}

inline auto Threads::all_gather_v(at::Tensor tensor) {
  auto said = detail::fingerprint_of_all_gather_v(tensor);
  return meet({.verb = "all_gather_v", .tensor = std::move(tensor)}, std::move(said), [](const std::vector<detail::ThreadsPost>& posts) {
    std::vector<at::Tensor> tensors;
    for (const auto& post : posts) tensors.push_back(post.tensor.detach().clone());
    return tensors;
  });
}

inline auto Threads::broadcast(at::Tensor tensor, int root) {
  auto said = detail::fingerprint_of_broadcast(tensor, root);
  return meet({.verb = "broadcast", .tensor = std::move(tensor)}, std::move(said),
              [root](const std::vector<detail::ThreadsPost>& posts) {
                return posts.at(static_cast<std::size_t>(root)).tensor.detach().clone();
              });
}

inline auto Threads::barrier() {
  return meet({.verb = "barrier"}, "barrier", [](const std::vector<detail::ThreadsPost>&) { return true; });
}

template <class Fn> void Threads::run(int ranks, Fn&& fn, ThreadsOptions options) {
  check<ConfigError>(ranks > 0, "Threads: ", ranks, " ranks; at least one is needed");
  check<ConfigError>(options.local_world_size >= 0 && (options.local_world_size == 0 || ranks % options.local_world_size == 0), "Threads: ",
                     ranks, " ranks on nodes of ", options.local_world_size, "; every node must have as many");
  auto hub = std::make_shared<detail::ThreadsHub>(ranks, options);
  const int threads = at::get_num_threads();
  std::mutex mutex;
  std::exception_ptr first;
  std::string where;
  const auto body = [&](int rank) {
    at::set_num_threads(std::max(1, threads / ranks));
    try {
      fn(Threads(hub, rank));
    } catch (const detail::ThreadsHub::Aborted&) {   // another rank's failure, which is reported there
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!first) {
        first = std::current_exception();
        where = hub->where(rank);
        hub->abort(rank, where);
      }
    }
    hub->leave(rank);
  };
  {
    std::vector<std::jthread> running;                         // joins what has started, whatever happens
    try {
      for (int rank = 0; rank < ranks; ++rank) running.emplace_back(body, rank);
    } catch (const std::system_error&) {
      for (int rank = ranks - 1; rank >= static_cast<int>(running.size()); --rank)
        hub->abort(rank, concat("thread ", running.size(), " of ", ranks, " could not be started"));
    }
  }
  at::set_num_threads(threads);
  if (first) detail::rethrow_with(first, where);
  const auto cause = hub->cause();
  check<CommunicationError>(cause.empty(), cause);
}

}  // namespace rookery
