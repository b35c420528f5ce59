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
#include <ATen/ops/empty.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/core/pass.hpp>
#include <rookery/optim/dense.hpp>

namespace rookery {

namespace detail {
class GradientBuckets;
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

/// A sum over ranks under way, whatever the topology.
struct PendingSum {
  std::unique_ptr<void, void (*)(void*)> handle{nullptr, nullptr};
  at::Tensor (*wait)(void* handle) = nullptr;
};

/// Starts a sum over ranks.
template <class Topology> PendingSum start_sum(void* topology, at::Tensor tensor) {
  using Handle = decltype(all_reduce(std::declval<Topology&>(), at::Tensor{}));
  return {{new Handle(all_reduce(*static_cast<Topology*>(topology), std::move(tensor))),
           [](void* handle) { delete static_cast<Handle*>(handle); }},
          [](void* handle) { return static_cast<Handle*>(handle)->wait(); }};
}

/// The dense gradients of one model on their way.
class GradientBuckets {
 public:
  using Start = PendingSum (*)(void* topology, at::Tensor tensor);

  /// The parameters stay where they are.
  GradientBuckets(std::span<DenseParameter> parameters, const BucketOptions& options, std::shared_ptr<PassState> passes, void* topology,
                  Start start);
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  std::span<const DenseParameter> parameters() const { return parameters_; }
  /// Takes the gradient of parameter p of this step, an undefined one where this rank's loss did not reach it.
  void fill(std::size_t p, const at::Tensor& gradient);
  /// Whether the gradient of parameter p has left.
  bool has_left(std::size_t p) const { return parameters_[p].bucket < next_; }
  /// Sends the buckets that are next and wait for no gradient that backward may still bring.
  void send_full();
  /// Sends what has not left.  Ranks: all, in the same order.
  void send() {
    while (next_ < buckets_.size()) send_next();
  }
  /// Waits for all that was sent: the gradients of this step, summed over ranks, undefined where no rank's loss reached.
  void receive();
  /// Forgets the step.
  void clear();

 private:
  /// Parameters [begin, end).
  struct Bucket {
    std::size_t begin = 0, end = 0;
    std::int64_t numbers = 0;                // of all its gradients
    at::Tensor message{};                    // [numbers + parameters]: gradients, then 1 for each that the loss reached
    PendingSum sum{};
    std::int64_t flag_of(std::size_t p) const { return numbers + static_cast<std::int64_t>(p - begin); }
  };

  bool is_full(const Bucket& bucket) const;
  void send_next();
  const at::Tensor& tensor(std::size_t p) const { return parameters_[p].parameter->tensor(); }

  std::span<DenseParameter> parameters_;
  void* topology_;
  Start start_;
  at::ScalarType dtype_ = at::kFloat;
  std::vector<Bucket> buckets_;
  std::size_t next_ = 0;                     // the bucket that leaves next
  std::shared_ptr<void> overlap_;            // goes first
};

inline GradientBuckets::GradientBuckets(std::span<DenseParameter> parameters, const BucketOptions& options,
                                        std::shared_ptr<PassState> passes, void* topology, Start start)
    : parameters_(parameters), topology_(topology), start_(start) {
  for (const auto& one : parameters_)
    if (one.parameter->dtype() == at::kDouble) dtype_ = at::kDouble;
  const auto size = static_cast<std::int64_t>(c10::elementSize(dtype_));
  for (auto p = parameters_.size(); p-- > 0;) {
    const auto wanted = buckets_.size() == 1 ? options.first_bytes : options.bytes;
    if (buckets_.empty() || buckets_.back().numbers * size >= wanted) buckets_.push_back({.begin = p, .end = p + 1});
    auto& bucket = buckets_.back();
    parameters_[p].bucket = buckets_.size() - 1;
    parameters_[p].offset = bucket.numbers;
    bucket.begin = p;
    bucket.numbers += parameters_[p].parameter->numel();
  }
  if (options.overlap.attach) overlap_ = options.overlap.attach(*this, std::move(passes), options.overlap.pass);
}

inline void GradientBuckets::clear() {
  for (auto& bucket : buckets_) {
    bucket.message = at::Tensor{};
    bucket.sum = {};
  }
  for (auto& one : parameters_) one.is_packed = false;
  next_ = 0;
}

inline void GradientBuckets::fill(std::size_t p, const at::Tensor& gradient) {
  auto& one = parameters_[p];
  auto& bucket = buckets_[one.bucket];
  if (!bucket.message.defined()) bucket.message = at::empty({bucket.flag_of(bucket.end)}, dtype_);   // [numbers + parameters]
  const auto part = bucket.message.narrow(0, one.offset, tensor(p).numel());               // [numel]
  if (gradient.defined()) part.copy_(gradient.reshape({-1}));
  else part.zero_();
  bucket.message[bucket.flag_of(p)].fill_(gradient.defined() ? 1 : 0);
  one.is_packed = true;
}

inline bool GradientBuckets::is_full(const Bucket& bucket) const {
  for (auto p = bucket.begin; p < bucket.end; ++p)
    if (!parameters_[p].is_packed && tensor(p).requires_grad()) return false;
  return true;
}

inline void GradientBuckets::send_full() {
  while (next_ < buckets_.size() && is_full(buckets_[next_])) send_next();
}

inline void GradientBuckets::send_next() {
  const at::NoGradGuard no_grad;
  auto& bucket = buckets_[next_];
  for (auto p = bucket.begin; p < bucket.end; ++p)
    if (!parameters_[p].is_packed) fill(p, tensor(p).grad());
  bucket.sum = start_(topology_, std::move(bucket.message));
  ++next_;
}

inline void GradientBuckets::receive() {
  for (auto& bucket : buckets_) {
    const auto sum = bucket.sum.wait(bucket.sum.handle.get());                               // [numbers + parameters]
    for (auto p = bucket.begin; p < bucket.end; ++p) {
      auto& one = parameters_[p];
      const bool reached = sum[bucket.flag_of(p)].item<double>() > 0;
      const auto part = sum.narrow(0, one.offset, one.parameter->numel());            // [numel]
      one.gradient = reached ? part.to(one.parameter->dtype()).view(one.parameter->shape()) : at::Tensor{};
    }
  }
}

}  // namespace detail
}  // namespace rookery
