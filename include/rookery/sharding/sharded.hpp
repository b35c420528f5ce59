// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sharded: a placed model, ready to run and to train, on any topology; Local included.
//
// Made by ShardingPolicy::apply; neither copyable nor movable, and the topology outlives it. Answers to torchrec's
// DistributedModelParallel; differs: nothing is traced or wrapped, the model is the user's own struct.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <rookery/comm/agree.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/pass.hpp>
#include <rookery/core/side_stream.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/sharding/model_and_loss.hpp>
#include <rookery/sharding/placed.hpp>
#include <rookery/sharding/table_runtime.hpp>
#include <rookery/sparse/batch.hpp>

namespace rookery {

/// What a forward pass with a loss gives. `loss` is the SUM over this rank's rows.
template <class Output> struct LossAndOutput {
  at::Tensor loss;                   // []
  Output output;
};

template <class What, class Topology> class Sharded;

/// A placed model with its loss.
///
/// Cost:    a forward pass exchanges ids once and pooled values once for all lookups.
/// Ranks:   every rank calls, in the same order; batches may differ in size and may be empty.
/// Errors:  IndexError for a bad id, naming feature, table, row and position; ShapeError for sizes that do not fit.
/// On a device the tensors that a batch lists among its members are moved there first; ids are read on the host.
template <class Model, class Loss, class Batch, class Topology>
class Sharded<ModelAndLoss<Model, Loss, Batch>, Topology> : public Placed<Model, Topology> {
 public:
  using Output = OutputOf<Model, Batch>;
  static constexpr bool has_loss = true;
  /// Whether the loss has a normaliser.
  static constexpr bool divides = requires(const Loss& loss, const Batch& batch) { loss.normaliser(batch); };

  Sharded(ModelAndLoss<Model, Loss, Batch> declared, Topology& topology, const ShardingOptions& options)
      : Placed<Model, Topology>(std::move(declared.model), topology, options), loss_(std::move(declared.loss)) {
    if constexpr (concepts::HasLookups<Model, Batch>)
      this->expect_lookups(collections(static_cast<Looked*>(nullptr)), topology.rank(), topology.world_size(),
                           concepts::local_world_size(topology));
    else this->expect_lookups({}, topology.rank(), topology.world_size(), concepts::local_world_size(topology));
    if constexpr (Topology::is_distributed) agree(topology, "ShardingPolicy", this->lookup_lines());
  }

  /// Both phases and the loss. In training with grad mode on, a pass counts for the next step once backward() has run from its loss;
  /// otherwise nothing requires grad.
  LossAndOutput<Output> operator()(const Batch& given) {
    const bool capturing = this->capturing();
    const at::AutoGradMode grad_mode(capturing);
    auto& pass = this->pass();
    pass.begin(static_cast<std::int64_t>(given.size()));
    if (capturing) pass.open();
    const auto input = input_of(given, capturing);
    const auto& batch = input->batch();
    detail::Capture capture;
    auto output = run(*input, capture);
    auto loss = loss_(output, batch);                                                        // []
    check<ShapeError>(loss.dim() == 0, "the loss has shape ", loss.sizes(), "; it must be one number, the sum over the batch");
    if (capturing) {
      capture.normaliser = normaliser(batch);
      loss = pass.close(std::move(loss), capture.normaliser);                                // []
      capture.used = std::move(pass.used);                                                   // []
      this->runtime().keep(std::move(capture));
    }
    return {std::move(loss), std::move(output)};
  }

  /// Both phases without the loss; nothing is captured, nothing requires grad, and modules behave as in evaluation.
  Output predict(const Batch& given) {
    const at::NoGradGuard no_grad;
    const detail::Evaluating evaluating(this->pass());
    this->pass().begin(static_cast<std::int64_t>(given.size()));
    const auto input = input_of(given, false);
    detail::Capture unused;
    return run(*input, unused);
  }

  /// Begins the input of a pass to come: its ids leave for the ranks that hold their rows, its tensors for the device. The pass for this
  /// very object goes on from there if it trains, or does not, as the model does now; its ids must be what they were. Where weights of
  /// ids require grad, they are looked up when their pass comes. Called by pipelined().
  /// Ranks: all, in the same order. Errors: IndexError for a bad id, as the pass would.
  void begin(const Batch& given) {
    const bool capturing = this->capturing();
    const at::AutoGradMode grad_mode(capturing);
    this->pass().begin(static_cast<std::int64_t>(given.size()));
    auto input = made_ahead(given, capturing);
    if (input->has_trained_weights()) return;
    send(*input);
    begun_.push_back(std::move(input));
  }
  /// Forgets a batch that was begun and has not been passed. Ranks: all, in the same order; none of the others on the way out of an error.
  void forget(const Batch& given) noexcept {
    const auto found = std::find_if(begun_.begin(), begun_.end(), [&](const auto& input) { return input->given == &given; });
    if (found == begun_.end()) return;
    const auto input = std::move(*found);
    begun_.erase(found);
    this->runtime().forget(this->topology(), input->under_way);
  }

  const Loss& loss() const { return loss_; }

 private:
  template <class M, class B, bool = concepts::HasLookups<M, B>> struct LookedOf {
    using type = Lookups<>;
  };
  template <class M, class B> struct LookedOf<M, B, true> {
    using type = decltype(std::declval<const M&>().lookups(std::declval<const B&>()));
  };
  using Looked = typename LookedOf<Model, Batch>::type;

  /// A pass before its lookups come back.
  struct Input {
    const Batch* given;
    std::optional<Batch> moved;                              // on a device: the batch's copy there
    std::optional<c10::Event> done;                          // on a device: reached once what was made ahead is there
    bool capturing;
    std::optional<Looked> lookups;
    TableRuntime::UnderWay<Topology> under_way;

    Input(Sharded& model, const Batch& batch, bool capture) : given(&batch), capturing(capture) {
      if constexpr (HasMembers<Batch> && concepts::may_have_device<Topology>())
        if (model.on_device()) moved.emplace(dense_to(batch, model.topology().device()));
      if constexpr (concepts::HasLookups<Model, Batch>) lookups.emplace(std::as_const(model.model()).lookups(this->batch()));
    }
    const Batch& batch() const { return moved ? *moved : *given; }
    bool has_trained_weights() const {
      if constexpr (concepts::HasLookups<Model, Batch>)
        for (const auto& features : lookups->features)
          if (features.is_weighted() && features.weights().requires_grad()) return true;
      return false;
    }
  };

  /// On a device by a stream of its own, so that copies go on while the device computes.
  std::unique_ptr<Input> made_ahead(const Batch& given, bool capturing) {
    if constexpr (concepts::may_have_device<Topology>())
      if (this->on_device()) [[unlikely]] {
        std::unique_ptr<Input> input;
        auto done = beside_.run(this->topology().device(), [&] { input = std::make_unique<Input>(*this, given, capturing); });
        input->done.emplace(std::move(done));
        return input;
      }
    return std::make_unique<Input>(*this, given, capturing);
  }
  /// Lets the device compute with what was made ahead.
  [[gnu::cold]] void wait_for(Input& input) const {
    const auto device = this->topology().device();
    const auto current = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
    input.done->block(current);
    if constexpr (HasMembers<Batch>)
      if (input.moved) record_stream(*input.moved, current);
    if constexpr (concepts::HasLookups<Model, Batch>)
      for (const auto& features : input.lookups->features) features.record_stream(current);
  }

  /// What was begun for this very batch, or is begun now.
  std::unique_ptr<Input> input_of(const Batch& given, bool capturing) {
    const auto found = std::find_if(begun_.begin(), begun_.end(),
                                    [&](const auto& input) { return input->given == &given && input->capturing == capturing; });
    if (found != begun_.end()) {
      auto input = std::move(*found);
      begun_.erase(found);
      if (input->done) wait_for(*input);
      return input;
    }
    auto input = std::make_unique<Input>(*this, given, capturing);
    send(*input);
    return input;
  }
  void send(Input& input) {
    if constexpr (concepts::HasLookups<Model, Batch>)
      this->runtime().begin(this->topology(), input.lookups->features, input.capturing, input.under_way);
  }

  template <class... K> std::vector<const void*> collections(Lookups<K...>*) { return {&K::resolve(this->model())...}; }

  /// The divisor of the loss, [] without grad; undefined where the loss divides by nothing.
  at::Tensor normaliser(const Batch& batch) const {
    if constexpr (divides) {
      const at::NoGradGuard no_grad;
      auto divisor = loss_.normaliser(batch);                                                // []
      check<ShapeError>(divisor.dim() == 0, "the loss's normaliser has shape ", divisor.sizes(), "; it must be one number");
      return divisor.detach().clone();                                                       // the batch may be reused before the step
    } else {
      return {};
    }
  }

  /// Both phases. Few functions lie between the caller and `forward`: each is a line of the error when its body is wrong.
  Output run(Input& input, detail::Capture& capture) {
    if constexpr (concepts::HasLookups<Model, Batch>) {
      auto looked = this->runtime().look_up(this->topology(), input.under_way);
      for (const auto& next : begun_) this->runtime().advance(this->topology(), next->under_way);
      capture = std::move(looked.capture);
      const auto pooled = detail::PooledOf<Looked>::type::from(std::move(looked.lookups));
      return this->model().forward(input.batch(), pooled);
    } else {
      return this->model().forward(input.batch());
    }
  }

  [[no_unique_address]] Loss loss_;
  std::vector<std::unique_ptr<Input>> begun_;                // in the order in which they were
  SideStream beside_;
};

/// A placed collection, for scripts and tests: KeyedJaggedTensor -> its Output.
template <class Collection, class Topology>
  requires EmbeddingTables<Collection>
class Sharded<Collection, Topology> : public Placed<Collection, Topology> {
 public:
  static constexpr bool has_loss = false, divides = false;

  Sharded(Collection declared, Topology& topology, const ShardingOptions& options)
      : Placed<Collection, Topology>(std::move(declared), topology, options) {
    this->expect_lookups({&this->model()}, topology.rank(), topology.world_size(), concepts::local_world_size(topology));
  }
  typename Collection::Output operator()(const KeyedJaggedTensor& features) {
    const bool capturing = this->capturing();
    auto looked = this->runtime().look_up(this->topology(), std::span(&features, 1), capturing);
    if (capturing) this->runtime().keep(std::move(looked.capture));
    return Collection::output(std::move(looked.lookups.front()));
  }
};

}  // namespace rookery
