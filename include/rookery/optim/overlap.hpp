// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// during_backward: dense gradients leave for the other ranks while backward still computes those of earlier layers.
//
//   Optimizer step{model, Adam{}, {.buckets = {.overlap = during_backward()}}};
//
// A hook on each parameter fills its bucket, and a full bucket leaves when all before it have. When backward is over, what this rank's loss
// did not reach leaves too, so the order of collectives is the same whatever ranks reach. The result is that without overlap, bit for bit.
// Answers to the Reducer of DDP and its no_sync; differs: unused parameters are exact without being looked for.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/pass.hpp>
#include <rookery/optim/gradient_buckets.hpp>

namespace rookery {

namespace detail {

/// Follows the backward passes of a model and fills the buckets of its optimizer.
class FollowedBackward {
 public:
  FollowedBackward(GradientBuckets& buckets, std::shared_ptr<PassState> passes, int pass)
      : buckets_(buckets), passes_(std::move(passes)), pass_(pass), listener_(std::make_shared<BackwardListener>()) {
    *listener_ = {.who = this, .opened = [](void* who, const at::Tensor& used) { static_cast<FollowedBackward*>(who)->follow(used); }};
    passes_->listener = listener_;
    for (std::size_t p = 0; p < buckets_.parameters().size(); ++p) {
      const auto& leaf = leaves_.emplace_back(buckets_.parameters()[p].parameter->tensor());
      const bool trains = leaf.requires_grad();
      leaf.set_requires_grad(true);          // a frozen one is followed as well: it may train later
      hooks_.push_back(leaf.register_hook([this, p](const at::Tensor& gradient) { arrived(p, gradient); }));
      leaf.set_requires_grad(trains);
    }
  }
  FollowedBackward(const FollowedBackward&) = delete;
  FollowedBackward& operator=(const FollowedBackward&) = delete;
  ~FollowedBackward() {
    listener_->who = nullptr;
    if (passes_->listener == listener_) passes_->listener = nullptr;
    for (std::size_t p = 0; p < leaves_.size(); ++p) leaves_[p].remove_hook(hooks_[p]);
  }

 private:
  /// The gradient of a pass's leaf `used` says that its backward is over.
  void follow(const at::Tensor& used) const {
    used.register_hook([listener = listener_](const at::Tensor&) {
      if (listener->who) static_cast<FollowedBackward*>(listener->who)->ended();
    });
  }
  void ended() {
    if (!passes_->stops() && ++listener_->ended == pass_) buckets_.send();
  }
  /// Backward is about to add `gradient` to what parameter p has.
  void arrived(std::size_t p, const at::Tensor& gradient) {
    if (passes_->listener != listener_ || passes_->stops() || listener_->ended + 1 < pass_) return;
    if (buckets_.has_left(p))
      fail<Error>("Optimizer: a gradient of '", buckets_.parameters()[p].name, "' came after it had left for the other ranks: ",
                  "in a step of more than the ", pass_, " passes that during_backward(", pass_, ") is for, in another backward of one ",
                  "loss, or of a graph that was made before the pass");
    const at::NoGradGuard no_grad;
    const auto& before = leaves_[p].grad();
    buckets_.fill(p, before.defined() ? before.add(gradient) : gradient);
    buckets_.send_full();
  }

  GradientBuckets& buckets_;
  std::shared_ptr<PassState> passes_;
  int pass_;
  std::shared_ptr<BackwardListener> listener_;
  std::vector<at::Tensor> leaves_;           // of parameters
  std::vector<unsigned> hooks_;              // on them
};

}  // namespace detail

/// Dense gradients leave in the backward pass of the `pass`-th forward pass since the last step; those before it accumulate and send
/// nothing. A step of fewer passes sends in step(), as does a model whose modules sum over ranks, such as a synchronised BatchNorm, for
/// its backward goes on there.
///
/// Errors:  ConfigError for a pass below 1. backward() throws Error when a gradient comes after it has left: in a step of more passes, in
///          another backward of one loss, or of a graph that was made before the forward pass, such as a penalty on weights.
/// Cost:    a copy of each gradient as it comes, which step() otherwise makes.
/// Ranks:   all, in the same order. Each goes through backward of as many passes; other collectives lie before or after all of it. What is
///          done to gradients between backward() and step() is not seen.
inline Overlap during_backward(int pass = 1) {
  check<ConfigError>(pass >= 1, "during_backward: pass ", pass, "; a step has at least 1");
  return {pass, [](detail::GradientBuckets& buckets, std::shared_ptr<detail::PassState> passes, int of_step) -> std::shared_ptr<void> {
            return std::make_shared<detail::FollowedBackward>(buckets, std::move(passes), of_step);
          }};
}

}  // namespace rookery
