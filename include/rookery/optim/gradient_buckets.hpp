// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// GradientBuckets: the sum of dense gradients over ranks, in a few large messages.
//
// Gradients become final from the last layer to the first, so buckets are filled in reverse member order. They leave in that order on
// every rank, and what a rank's loss did not reach leaves as zeros: whatever ranks reach, the order of collectives is the same. What
// travels does not depend on when it leaves, in step() or during backward (optim/overlap.hpp), so neither does any bit of the sums.
// Answers to the Reducer of DDP.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/pass.hpp>
#include <rookery/optim/dense.hpp>

namespace rookery {

namespace detail {
template <class Lazily> class BucketsOf;
using GradientBuckets = BucketsOf<void>;
}

/// What makes gradients leave before step(): given by `during_backward` of optim/overlap.hpp.
struct Overlap {
  int pass = 0;                              // since the last step: the one whose backward they leave in
  std::shared_ptr<void> (*attach)(detail::GradientBuckets& buckets, std::shared_ptr<detail::PassState> passes, int pass) = nullptr;
};

/// How dense gradients travel.
struct BucketOptions {
  std::int64_t bytes = 25 << 20;             // a message takes in parameters until it has this size
  std::int64_t first_bytes = 1 << 20;        // the one that leaves first
  Overlap overlap{};                         // none: they leave in step()
};

namespace detail {

/// Starts a sum over ranks: its handle, whatever the topology.
template <class Topology> std::shared_ptr<void> start_sum(void* topology, at::Tensor tensor) {
  return std::make_shared<decltype(all_reduce(std::declval<Topology&>(), tensor))>(
      all_reduce(*static_cast<Topology*>(topology), std::move(tensor)));
}
/// What a handle of `start_sum` gives.
template <class Topology> at::Tensor finish_sum(void* handle) {
  return static_cast<decltype(all_reduce(std::declval<Topology&>(), at::Tensor{}))*>(handle)->wait();
}

/// The sums over ranks of a topology.
struct Sums {
  void* topology = nullptr;
  std::shared_ptr<void> (*start)(void* topology, at::Tensor tensor) = nullptr;
  at::Tensor (*finish)(void* handle) = nullptr;
};

/// The dense gradients of one model on their way. A template, so that a program of one process compiles none of it.
template <class Lazily> class BucketsOf {
 public:
  /// The parameters stay where they are.
  BucketsOf(std::span<DenseParameter> parameters, const BucketOptions& options, std::shared_ptr<PassState> passes, Sums sums);
  BucketsOf(const BucketsOf&) = delete;
  BucketsOf& operator=(const BucketsOf&) = delete;
  ~BucketsOf() { finish(); }

  std::span<const DenseParameter> parameters() const { return parameters_; }
  /// Takes the gradient of a parameter of this step, an undefined one where this rank's loss did not reach it.
  void fill(std::size_t p, const at::Tensor& gradient);
  /// Whether the gradient of a parameter has left.
  bool has_left(std::size_t p) const { return parameters_[p].bucket < under_way_.size(); }
  /// Sends the buckets that are next and wait for no gradient that backward may still bring.
  void send_full();
  /// Sends what has not left.  Ranks: all, in the same order.
  void send() {
    while (under_way_.size() + 1 < begins_.size()) send_next();
    if (reached_.defined() && !reached_under_way_) reached_under_way_ = sums_.start(sums_.topology, reached_);
  }
  /// Waits for all that was sent: the gradients of this step, summed over ranks, undefined where no rank's loss reached.
  void receive();
  /// Forgets the step, once what is under way has come: other ranks may still read it.
  void clear() noexcept {
    finish();
    under_way_.clear();
    received_ = 0;
    message_ = reached_ = at::Tensor{};
    for (auto& one : parameters_) one.is_packed = false;
  }

 private:
  void send_next();
  /// Waits for what nobody has received; not on the way out of an error, whose ranks may never come.
  void finish() noexcept {
    const auto first = std::exchange(received_, under_way_.size());
    if (std::uncaught_exceptions() > 0) return;
    try {
      for (auto bucket = first; bucket < under_way_.size(); ++bucket) sums_.finish(under_way_[bucket].get());
      if (const auto reached = std::exchange(reached_under_way_, nullptr)) sums_.finish(reached.get());
    } catch (const std::exception&) {                        // whoever makes the next collective is told
    }
  }

  std::span<DenseParameter> parameters_;
  Sums sums_;
  at::ScalarType dtype_ = at::kFloat;
  std::vector<std::int64_t> begins_{0};      // of the buckets in the message, and its end
  at::Tensor message_;                       // [parameters' numbers + parameters]: each gradient, and 1 if this rank's loss reached it
  at::Tensor reached_;                       // [parameters] on the host, where the message is on a device: 1 if this rank's loss reached it
  std::shared_ptr<void> reached_under_way_;
  std::vector<std::shared_ptr<void>> under_way_;   // buckets that left
  std::size_t received_ = 0;                 // of these
  std::shared_ptr<void> overlap_;            // goes first
};

template <class Lazily>
BucketsOf<Lazily>::BucketsOf(std::span<DenseParameter> parameters, const BucketOptions& options, std::shared_ptr<PassState> passes,
                             Sums sums)
    : parameters_(parameters), sums_(sums) {
  for (const auto& one : parameters_)
    if (one.parameter->dtype() == at::kDouble) dtype_ = at::kDouble;
  const auto size = static_cast<std::int64_t>(c10::elementSize(dtype_));
  std::int64_t numbers = 0;                  // in the bucket that is being filled
  for (auto p = parameters_.size(); p-- > 0;) {
    auto& one = parameters_[p];
    if (begins_.size() == 1 || numbers * size >= (begins_.size() == 2 ? options.first_bytes : options.bytes)) {
      begins_.push_back(begins_.back());
      numbers = 0;
    }
    one.bucket = begins_.size() - 2;
    one.offset = begins_.back();
    numbers += one.parameter->numel();
    begins_.back() += one.parameter->numel() + 1;
  }
  if (options.overlap.attach) overlap_ = options.overlap.attach(*this, std::move(passes), options.overlap.pass);
}

template <class Lazily> void BucketsOf<Lazily>::fill(std::size_t p, const at::Tensor& gradient) {
  auto& one = parameters_[p];
  const auto numbers = one.parameter->numel();
  if (!message_.defined()) message_ = ops::empty({begins_.back()}, at::TensorOptions(dtype_).device(one.parameter->tensor().device()));
  const auto part = message_.narrow(0, one.offset, numbers + 1);                             // [numbers + 1]
  if (gradient.defined()) part.narrow(0, 0, numbers).copy_(gradient.reshape({-1}));
  else part.zero_();
  part[numbers].fill_(gradient.defined() ? 1 : 0);
  if (!message_.is_cpu()) {                                  // the host must not wait for the device to know it
    if (!reached_.defined()) reached_ = ops::zeros({static_cast<std::int64_t>(parameters_.size())}, at::kFloat);
    reached_[static_cast<std::int64_t>(p)].fill_(gradient.defined() ? 1 : 0);
  }
  one.is_packed = true;
}

template <class Lazily> void BucketsOf<Lazily>::send_full() {
  while (under_way_.size() + 1 < begins_.size()) {
    for (const auto& one : parameters_)
      if (one.bucket == under_way_.size() && !one.is_packed && one.parameter->tensor().requires_grad()) return;
    send_next();
  }
}

template <class Lazily> void BucketsOf<Lazily>::send_next() {
  const at::NoGradGuard no_grad;
  const auto bucket = under_way_.size();
  for (std::size_t p = 0; p < parameters_.size(); ++p)
    if (parameters_[p].bucket == bucket && !parameters_[p].is_packed) fill(p, parameters_[p].parameter->tensor().grad());
  under_way_.push_back(sums_.start(sums_.topology, message_.narrow(0, begins_[bucket], begins_[bucket + 1] - begins_[bucket])));
}

template <class Lazily> void BucketsOf<Lazily>::receive() {
  auto bucket = under_way_.size();
  at::Tensor sum, reached;
  if (const auto handle = std::exchange(reached_under_way_, nullptr)) reached = sums_.finish(handle.get());   // [parameters]
  for (auto p = parameters_.size(); p-- > 0;) {
    auto& one = parameters_[p];
    const auto numbers = one.parameter->numel();
    if (one.bucket != bucket) {
      bucket = one.bucket;
      received_ = bucket + 1;
      sum = sums_.finish(under_way_[bucket].get());
    }
    const auto part = sum.narrow(0, one.offset - begins_[bucket], numbers + 1);              // [numbers + 1]
    const auto ranks = reached.defined() ? reached[static_cast<std::int64_t>(p)] : part[numbers];   // [] that reached it
    one.gradient = ranks.item<double>() > 0
                       ? part.narrow(0, 0, numbers).to(one.parameter->dtype()).view(one.parameter->shape())
                       : at::Tensor{};
  }
}

}  // namespace detail
}  // namespace rookery
