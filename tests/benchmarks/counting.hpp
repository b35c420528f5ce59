// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Counting<Topology>: a topology that counts what its rank sends and how long it waits.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/clock.hpp>

namespace rookery::benchmarks {

/// What a rank sent to others, and the seconds it spent in verbs and in waiting for them.
struct Traffic {
  std::int64_t collectives = 0, messages = 0, bytes = 0;
  double seconds = 0;

  Traffic operator-(const Traffic& before) const {
    return {collectives - before.collectives, messages - before.messages, bytes - before.bytes, seconds - before.seconds};
  }
  Traffic operator+(const Traffic& other) const {
    return {collectives + other.collectives, messages + other.messages, bytes + other.bytes, seconds + other.seconds};
  }
};

/// One rank of `Inner`, counted. A message is a part of one collective that has bytes for one other rank. Of an all-reduce, and of a
/// broadcast, the bytes are those of the best algorithms: 2 n (P - 1) / P in 2 (P - 1) messages, and n (P - 1) from the root.
template <class Inner> class Counting {
 public:
  static constexpr bool is_distributed = true;
  static constexpr std::string_view name = Inner::name;

  explicit Counting(Inner& inner) : inner_(&inner) {}

  int rank() const { return inner_->rank(); }
  int world_size() const { return inner_->world_size(); }
  int local_world_size() const { return inner_->local_world_size(); }
  c10::Device device() const { return inner_->device(); }
  void at_step(std::int64_t step) { inner_->at_step(step); }
  void abort(std::string_view cause) { inner_->abort(cause); }

  const Traffic& sent() const { return sent_; }

  auto all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts) {
    count(send, send_counts);
    return timed([&] { return inner_->all_to_all_v(std::move(send), std::move(send_counts), std::move(recv_counts)); });
  }
  auto reduce_scatter_v(at::Tensor tensor, Counts counts) {
    count(tensor, counts);
    return timed([&] { return inner_->reduce_scatter_v(std::move(tensor), std::move(counts)); });
  }
  auto all_gather_v(at::Tensor tensor) {
    count(others(), others() * bytes_of(tensor));
    return timed([&] { return inner_->all_gather_v(std::move(tensor)); });
  }
  auto all_reduce(at::Tensor tensor, ReduceOp op) {
    count(2 * others(), 2 * bytes_of(tensor) * others() / world_size());
    return timed([&] { return inner_->all_reduce(std::move(tensor), op); });
  }
  auto broadcast(at::Tensor tensor, int root) {
    count(root == rank() ? others() : 0, root == rank() ? others() * bytes_of(tensor) : 0);
    return timed([&] { return inner_->broadcast(std::move(tensor), root); });
  }
  auto barrier() {
    count(others(), 0);
    return timed([&] { return inner_->barrier(); });
  }

 private:
  template <class Handle> struct Timed {
    Handle handle;
    Traffic* sent;
    auto wait() {
      const Stopwatch clock;
      auto result = handle.wait();
      sent->seconds += clock.seconds();
      return result;
    }
  };
  template <class Post> auto timed(Post&& post) {
    const Stopwatch clock;
    auto handle = post();
    sent_.seconds += clock.seconds();
    return Timed<decltype(handle)>{std::move(handle), &sent_};
  }

  std::int64_t others() const { return world_size() - 1; }
  static std::int64_t bytes_of(const at::Tensor& tensor) { return static_cast<std::int64_t>(tensor.nbytes()); }
  void count(std::int64_t messages, std::int64_t bytes) { sent_ = sent_ + Traffic{1, messages, bytes, 0}; }
  /// Rows for each rank, of which this rank keeps its own.
  void count(const at::Tensor& tensor, const Counts& rows) {
    std::int64_t messages = 0, sent = 0;
    for (std::size_t peer = 0; peer < rows.size(); ++peer) {
      if (static_cast<int>(peer) == rank() || rows[peer] == 0) continue;
      ++messages;
      sent += rows[peer];
    }
    count(messages, tensor.size(0) == 0 ? 0 : sent * (bytes_of(tensor) / tensor.size(0)));
  }

  Inner* inner_;
  Traffic sent_;
};

}  // namespace rookery::benchmarks
