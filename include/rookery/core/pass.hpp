// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Pass: what a module may know of the forward pass that it is part of: whether the model trains, and the rows on other ranks.
//
// A module with statistics of the batch, or with random numbers, lists a Pass among its members; placing the model connects it. A sum
// over ranks inside forward is exact in both directions without a collective inside backward: the graph is cut there, and
// step() takes the gradients across the cuts, last one first.
// Stands in for torch.nn.Module.training and SyncBatchNorm's process group.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/random.hpp>

namespace rookery {

/// Whose rows a module takes its statistics from in training, and what becomes of buffers.
enum class BufferPolicy {
  synchronised,                          // of all ranks; what follows from them is the same on every rank
  broadcast,                             // of its own rank; each step gives all ranks the buffers of rank 0
  local                                  // of its own rank, and so are its buffers
};

namespace detail {

/// Who follows the backward passes of a model.
struct BackwardListener {
  void* who = nullptr;                   // none once it is gone
  void (*opened)(void* who, const at::Tensor& used) = nullptr;   // a pass begins; the gradient of `used` comes when its backward is over
  int ended = 0;                         // backward passes since the last step
};

/// Where the graph of a pass is cut: `leaf` is what the pass went on with, and its gradient belongs to `below`.
struct Cut {
  at::Tensor below, leaf;                // of the same shape
  bool is_sum = false;                   // leaf is the sum of `below` over ranks, and so is its gradient
};

/// What all modules of a placed model share.
struct PassState {
  bool training = true;
  std::uint64_t seed = 0;
  int rank = 0, world_size = 1;
  at::Tensor (*sum)(void* topology, at::Tensor tensor) = nullptr;   // over ranks; none on a topology of one process
  at::Tensor (*of_first)(void* topology, at::Tensor tensor) = nullptr;   // rank 0's; the same
  void* topology = nullptr;
  c10::Device device = c10::Device(c10::DeviceType::CPU);   // where the model computes
  std::int64_t rows = -1;                // of this rank's batch; -1 where no pass has begun
  std::int64_t first_row = -1;           // its place in the global batch; -1 when not asked for yet
  BufferPolicy buffers = BufferPolicy::synchronised;
  bool own_mean = false;                 // backward starts from the loss divided by the pass's own normaliser
  std::shared_ptr<BackwardListener> listener{};
  std::vector<Cut> cuts;                 // of all passes since the last step, in order
  bool completing = false;               // backward goes on across cuts
  at::Tensor used, first;                // [] of the pass under way: a leaf, and the first node of its graph

  void begin(std::int64_t batch_rows) {
    rows = batch_rows;
    first_row = sum ? -1 : 0;
  }

  /// Gives a parameter or a buffer the values that it has on rank 0.
  template <class Leaf> void take_from_first(Leaf& leaf) const { leaf.assign(of_first(topology, leaf.tensor().detach().clone())); }

  /// Begins the graph of a pass that is captured. LibTorch goes through the nodes that are ready from the latest to the earliest, so the
  /// gradient of `used` is there when backward has been everywhere else.
  void open() {
    used = first = ops::ones({}, device).set_requires_grad(true);                                  // []
    if (!listener) return;
    first = used.mul(1);                                                                     // []
    listener->opened(listener->who, used);
  }

  /// The loss [] that the caller starts backward from. It has the same value; `used` has a gradient once backward has run.
  at::Tensor close(at::Tensor loss, const at::Tensor& normaliser) {
    loss = loss.mul(first.to(loss.options()));                                               // []
    if (own_mean && normaliser.defined()) {
      auto share = normaliser.reciprocal().masked_fill(normaliser.eq(0), 0);                 // [] 0 of a pass without rows
      share = share.masked_fill(normaliser.lt(0), std::numeric_limits<double>::quiet_NaN());
      const auto mean = loss.mul(share.to(loss.options()));                                  // []
      loss = loss.detach().add(mean.sub(mean.detach()));                                     // [] the sum, with the gradient of the mean
    }
    if (!cuts.empty()) loss = used = cut(loss);                                              // []; backward goes on in step()
    first = at::Tensor{};
    return loss;
  }

  /// Whether backward() stops at a cut, so that step() goes on with it.
  bool stops() const { return completing || !cuts.empty(); }

  /// `x` as a leaf of a new piece of graph; itself where nothing is to be cut.
  at::Tensor cut(const at::Tensor& x) {
    if (!sum || !at::GradMode::is_enabled() || !x.requires_grad()) return x;
    auto leaf = x.detach().set_requires_grad(true);
    cuts.push_back({x, leaf, false});
    return leaf;
  }

  /// The rest of backward. Parts of a graph may be gone through several times, so it is kept until its last cut is done.
  /// Ranks: all, in the same order.
  void complete() {
    completing = stops();
    while (!cuts.empty()) {
      const auto [below, leaf, is_sum] = std::move(cuts.back());
      cuts.pop_back();
      auto gradient = leaf.grad();
      if (is_sum) {
        const auto count = leaf.numel();
        auto message = ops::zeros({count + 1}, leaf.options().requires_grad(false));         // [gradient, ranks that have one]
        if (gradient.defined()) {
          message.narrow(0, 0, count).copy_(gradient.reshape({-1}));
          message[count].fill_(1);
        }
        at::Tensor ranks;                                                                    // [] that have one
        if (!message.is_cpu())                               // the host must not wait for the device to know it
          ranks = sum(topology, ops::scalar_tensor(gradient.defined() ? 1 : 0, at::kDouble));
        message = sum(topology, std::move(message));
        if (!ranks.defined()) ranks = message[count];
        gradient = ranks.item<double>() > 0 ? message.narrow(0, 0, count).view(leaf.sizes()) : at::Tensor{};
      }
      if (gradient.defined() && below.requires_grad()) below.backward(gradient, /*retain_graph=*/true);
    }
    completing = false;
  }

  /// Forgets what step() was to go on with.
  void clear() {
    cuts.clear();
    completing = false;
    if (listener) listener->ended = 0;
  }
};

/// While it lives, modules behave as in evaluation.
class Evaluating {
 public:
  explicit Evaluating(PassState& state) : state_(state), training_(std::exchange(state.training, false)) {}
  ~Evaluating() { state_.training = training_; }
  Evaluating(const Evaluating&) = delete;
  Evaluating& operator=(const Evaluating&) = delete;

 private:
  PassState& state_;
  bool training_;
};

}  // namespace detail

/// A module's link to the passes of its model. Unconnected, in a script, it is training on one rank.
class Pass {
 public:
  /// Whether the model is in training and this is no `predict`.
  bool is_training() const { return !state_ || state_->training; }
  /// Whether sums over ranks are more than this rank's.
  bool is_distributed() const { return state_ && state_->sum; }
  /// Whether statistics are those of all ranks' rows, and other ranks have rows.
  bool is_synchronised() const { return is_distributed() && state_->buffers == BufferPolicy::synchronised; }
  /// A number that the seed and the module's full name choose.
  std::uint64_t key() const { return random_key(state_ ? state_->seed : 0, name_); }

  /// `x` for a module whose sums over ranks depend on it: gradients that reach the result go on to `x` in step().
  at::Tensor cut(const at::Tensor& x) const { return state_ ? state_->cut(x) : x; }

  /// The sum of `tensor` over ranks, of a tensor made from what `cut` gave; `tensor` itself on one process.
  ///
  /// Shapes:  any, the same on all ranks.
  /// Cost:    one all-reduce, and one in step() for the gradient.
  /// Ranks:   all, in the same order.
  at::Tensor sum_over_ranks(const at::Tensor& tensor) const {
    if (!is_distributed()) return tensor;
    auto total = state_->sum(state_->topology, tensor.detach().clone());
    if (at::GradMode::is_enabled()) state_->cuts.push_back({tensor, total.set_requires_grad(true), true});
    return total;
  }

  /// Where the first of this rank's `rows` rows lies among those of all ranks. They are the batch's rows, or k for each of these.
  ///
  /// Errors:  ShapeError for another number of rows.
  /// Cost:    one all-reduce of a number for each rank, in the first call of a pass.
  /// Ranks:   all, in the same order.
  std::int64_t first_row(std::int64_t rows) const {
    if (!state_ || state_->rows < 0) return 0;
    if (state_->first_row < 0) {
      auto counts = ops::zeros({state_->world_size}, at::kDouble);                           // [W]
      counts[state_->rank].fill_(static_cast<double>(state_->rows));
      counts = state_->sum(state_->topology, std::move(counts));
      state_->first_row = static_cast<std::int64_t>(counts.narrow(0, 0, state_->rank).sum().item<double>());
    }
    if (rows == 0) return 0;
    check<ShapeError>(state_->rows > 0 && rows % state_->rows == 0, "'", name_, "': an input of ", rows, " rows for a batch of ",
                      state_->rows, "; it must have the batch's rows, or as many for each of them");
    return state_->first_row * (rows / state_->rows);
  }

  /// Called by ShardingPolicy::apply, with the full name.
  void connect(std::string_view name, std::shared_ptr<detail::PassState> state) {
    name_ = name;
    state_ = std::move(state);
  }

 private:
  std::string name_;
  std::shared_ptr<detail::PassState> state_;
};

}  // namespace rookery
