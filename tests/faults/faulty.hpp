// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Faulty: a topology on which one rank does something at one of its collectives: fails, stalls, dies. One seed replays it.

#include <ATen/core/Tensor.h>

#include <rookery/concepts/communicator.hpp>

#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

namespace rookery::cases {

/// When: at the first collective from the `collective`-th of step `step` on, before it is posted or after. Step 0 is the start.
struct Moment {
  std::int64_t step = 0, collective = 0;
  bool is_after = false;
};

/// `Topology` with a `strike()` at one moment, on every rank that makes one.
template <class Topology> class Faulty {
 public:
  static constexpr bool is_distributed = true;
  static constexpr std::string_view name = "faulty";

  Faulty(Topology& topology, Moment moment, std::function<void()> strike)
      : topology_(&topology), moment_(moment), strike_(std::move(strike)) {}

  int rank() const { return topology_->rank(); }
  int world_size() const { return topology_->world_size(); }
  int local_world_size() const { return topology_->local_world_size(); }
  c10::Device device() const { return topology_->device(); }
  void abort(std::string_view cause) { topology_->abort(cause); }
  void at_step(std::int64_t step) {
    topology_->at_step(step);
    step_ = step;
    calls_ = 0;
  }
  /// Collectives so far.
  std::int64_t total() const { return total_; }

  auto all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts) {
    return call([&] { return topology_->all_to_all_v(std::move(send), std::move(send_counts), std::move(recv_counts)); });
  }
  auto all_reduce(at::Tensor tensor, ReduceOp op) { return call([&] { return topology_->all_reduce(std::move(tensor), op); }); }
  auto reduce_scatter_v(at::Tensor tensor, Counts counts) {
    return call([&] { return topology_->reduce_scatter_v(std::move(tensor), std::move(counts)); });
  }
  auto all_gather_v(at::Tensor tensor) { return call([&] { return topology_->all_gather_v(std::move(tensor)); }); }
  auto broadcast(at::Tensor tensor, int root) { return call([&] { return topology_->broadcast(std::move(tensor), root); }); }
  auto barrier() { return call([&] { return topology_->barrier(); }); }

 private:
  template <class Fn> auto call(Fn&& post) {
    const bool is_due = strike_ && (step_ > moment_.step || (step_ == moment_.step && calls_ >= moment_.collective));
    const auto strike = is_due ? std::exchange(strike_, nullptr) : nullptr;
    ++calls_;
    ++total_;
    if (strike && !moment_.is_after) strike();
    auto handle = post();
    if (strike && moment_.is_after) strike();
    return handle;
  }

  Topology* topology_;
  Moment moment_;
  std::function<void()> strike_;
  std::int64_t step_ = 0, calls_ = 0, total_ = 0;
};

}  // namespace rookery::cases
