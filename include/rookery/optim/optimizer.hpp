// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Optimizer: one step of a placed model, tables and dense parameters together.
//
// Exchange gradients; sum them by row; complete sums over whole rows where columns are split; update. Nothing is changed before
// everything is known to be finite, and clipping sees the norm of the whole gradient, each row counted once whatever the plan.
// Answers to torchrec's CombinedOptimizer, GradientClippingOptimizer and fused optimizers; differs: the update does not run inside
// backward, so clipping, accumulation and a check for NaN reach the tables too.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/comm/agree.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/core/error.hpp>
#include <rookery/optim/dense.hpp>
#include <rookery/optim/parameter_group.hpp>
#include <rookery/rules/probe.hpp>
#include <rookery/sharding/gradient_exchange.hpp>

namespace rookery {

/// What to do with a gradient that is not finite: stop every rank, or leave everything as it was and count the step as skipped.
enum class NonFinite { error, skip };

struct OptimizerOptions {
  double clip_norm = 0;                          // largest norm of the whole gradient; 0: no clipping
  double clip_value = 0;                         // then: largest absolute value of an element of it; 0: no clipping
  NonFinite non_finite = NonFinite::error;
  std::vector<ParameterGroup> groups{};          // learning rates and schedules of parameters and tables, by name
};

/// A tensor of optimizer state that is on this rank.
struct OptimizerState {
  std::string parameter;                         // full name: "over.layers.0.weight", "item.embedding_bags.item_id.weight"
  std::string slot;                              // "exp_avg"
  std::optional<ShardBox> box{};                 // of a table: the rectangle whose rows this is the state of
  at::Tensor tensor;
};

/// Steps a placed model. The tables follow their own rules, the dense parameters `DenseRule`.
///
/// `step()` uses every forward pass since the last step whose gradients were captured: several are one larger batch. The gradient is
/// divided by the loss's normaliser, summed over ranks and passes, then clipped by norm, then by value.
/// Errors:  NonFiniteError naming the first parameter or table, Error when backward() was forgotten, both before any weight or state
///          has changed; ConfigError when ranks were given different options or learning rate factors.
/// Cost:    one all-reduce of dense gradients, one exchange of table gradients, one small all-reduce of norms.
/// Ranks:   all, in the same order.
template <class Model, class DenseRule> class Optimizer {
  static constexpr bool is_rule = concepts::Rule<DenseRule>, is_elementwise = concepts::ElementwiseRule<DenseRule>;
  static_assert(is_rule, "rookery::Optimizer: the dense optimizer must be a rule, such as Sgd, Adagrad or Adam; see docs/concepts.md#rule");
  static_assert(!is_rule || is_elementwise,
                "rookery::Optimizer: a dense parameter has no rows; use Sgd, Adagrad or Adam, or a rule without row_sums and row state; "
                "see docs/concepts.md#rule");
  using Admitted = std::conditional_t<is_elementwise, DenseRule, ArchetypeRule>;
  static Admitted admit(const DenseRule& rule) {
    if constexpr (is_elementwise) return rule;
    else return {};
  }

 public:
  Optimizer(Model& model, DenseRule rule, OptimizerOptions options = {}) : model_(&model), dense_(admit(rule)), options_(options) {
    check<ConfigError>(options.clip_norm >= 0, "Optimizer: clip_norm is ", options.clip_norm, "; it must not be negative");
    check<ConfigError>(options.clip_value >= 0, "Optimizer: clip_value is ", options.clip_value, "; it must not be negative");
    model.for_each_parameter([&](std::string_view name, Parameter& parameter) { dense_.add(std::string(name), parameter); });
    assign_groups();
    if constexpr (std::remove_cvref_t<decltype(model.topology())>::is_distributed) {
      auto lines = concat("clip_norm ", options.clip_norm, "\nclip_value ", options.clip_value,
                          options.non_finite == NonFinite::skip ? "\nnon_finite skip" : "\nnon_finite error", "\ndense ",
                          probe(dense_.rule()));
      for (const auto& group : options.groups) lines += concat("\ngroup ", group.pattern, " times ", group.learning_rate_factor);
      agree(model.topology(), "Optimizer", lines);
    }
    tell_step();
  }

  /// One step; true when weights were updated, false when it was skipped.
  bool operator()();

  /// Forgets captured passes and gradients without a step.
  void clear() {
    dense_.clear();
    model_->runtime().clear();
  }

  /// Steps that updated weights.
  std::int64_t count() const { return count_; }
  /// Steps that were left out because a gradient was not finite.
  std::int64_t skipped() const { return skipped_; }
  /// Multiplies every learning rate, of tables and dense parameters, from the next step on: 1 at first. A schedule calls it.
  /// Errors: ConfigError for a factor that is negative or not finite.
  void set_learning_rate_factor(double factor) {
    check<ConfigError>(std::isfinite(factor) && factor >= 0, "Optimizer: learning rate factor ", factor,
                       "; it must be finite and not negative");
    rate_ = factor;
  }
  /// Norm of the whole gradient at the last step, before clipping.
  double gradient_norm() const { return gradient_norm_; }

  const DenseOptimizer<Admitted>& dense() const { return dense_; }
  DenseOptimizer<Admitted>& dense() { return dense_; }

  /// Calls `fn(OptimizerState)` for all state on this rank: of dense parameters in member order, then of local shards of tables.
  /// Parameter, slot and box together are unique.
  template <class Fn> void for_each_state(Fn&& fn) const;

 private:
  using Shards = std::vector<detail::ShardGradients>;

  /// Tells the topology's messages which step comes next.
  void tell_step() const {
    if constexpr (requires { model_->topology().at_step(count_); }) model_->topology().at_step(count_ + 1);
  }
  /// Whether the model's loss divides by anything.
  static constexpr bool divides = Model::divides;

  /// Forgets passes and gradients when the step ends, also by an exception.
  struct Cleared {
    Optimizer& optimizer;
    ~Cleared() { optimizer.clear(); }
  };

  /// Forward passes that a backward pass followed.
  std::int64_t passes_with_gradients() const;

  /// The squared norm of dense and table gradients, the normaliser, both over all ranks, and the first thing that is not finite.
  struct Norm {
    double squares = 0, normaliser = 0;
    std::string not_finite;
  };
  Norm norm(const Shards& shards, std::int64_t passes, std::span<const double> rates) const;

  /// Finds the group of each parameter and table.
  void assign_groups();

  Model* model_;
  DenseOptimizer<Admitted> dense_;
  OptimizerOptions options_;
  std::vector<std::size_t> group_of_table_;
  std::int64_t count_ = 0, skipped_ = 0;
  double gradient_norm_ = 0, rate_ = 1;
};

template <class Model, class DenseRule> bool Optimizer<Model, DenseRule>::operator()() {
  const at::NoGradGuard no_grad;
  check<Error>(!model_->runtime().captures().empty(), "Optimizer: step() without a forward pass in training since the last one");
  const auto passes = passes_with_gradients();
  check<Error>(passes > 0 || !Model::has_loss, "Optimizer: step() without backward() from the loss of a forward pass since the last one (",
               model_->runtime().captures().size(), " of these); call loss.backward() first");
  const Cleared cleared{*this};
  dense_.reduce(model_->topology());
  auto shards = model_->runtime().gradients(model_->topology());
  const auto rates = detail::group_rates(options_.groups, rate_, count_);
  const auto [squares, normaliser, not_finite] = norm(shards, passes, rates);
  const double scale = !divides ? 1 : normaliser == 0 ? 0 : 1 / normaliser;
  gradient_norm_ = std::sqrt(squares) * scale;
  if (!not_finite.empty()) {
    check<NonFiniteError>(options_.non_finite == NonFinite::skip, "step ", count_ + 1, ": ", not_finite, "; no weight was changed");
    ++skipped_;
    return false;
  }
  const double factor = options_.clip_norm > 0 ? scale * std::min(1.0, options_.clip_norm / (gradient_norm_ + 1e-6)) : scale;
  dense_.scale(factor);
  for (auto& shard : shards) shard.gradients.sums.mul_(factor);                              // [U, columns]
  if (options_.clip_value > 0) {
    dense_.clamp(options_.clip_value);
    for (auto& shard : shards) shard.gradients.sums.clamp_(-options_.clip_value, options_.clip_value);   // [U, columns]
  }
  auto sums = model_->row_sums(shards, {.step = count_ + 1, .rate = rate_});
  detail::complete_row_sums(model_->topology(), model_->runtime().routing(), shards, sums);
  dense_.update(rates);
  for (std::size_t i = 0; i < shards.size(); ++i)
    model_->update({&shards[i], 1}, {.step = count_ + 1, .rate = rates[group_of_table_[shards[i].table]]}, {&sums[i], 1});
  model_->end_step();
  ++count_;
  tell_step();
  return true;
}

template <class Model, class DenseRule> std::int64_t Optimizer<Model, DenseRule>::passes_with_gradients() const {
  const auto captures = model_->runtime().captures();
  return std::count_if(captures.begin(), captures.end(), [&](const detail::Capture& capture) {
    if (capture.used.defined()) return capture.used.grad().defined();
    const auto reached = detail::reached_lookups(capture, model_->runtime().routing());
    return std::find(reached.begin(), reached.end(), 1) != reached.end();
  });
}

template <class Model, class DenseRule> void Optimizer<Model, DenseRule>::assign_groups() {
  std::vector<std::string> names;
  for (const auto& one : dense_.parameters()) names.push_back(one.name);
  for (const auto& table : model_->tables()) names.push_back(table.description.name + ".weight");
  const auto numbers = detail::group_numbers(options_.groups, names);
  const auto dense = static_cast<std::ptrdiff_t>(dense_.parameters().size());
  for (std::ptrdiff_t p = 0; p < dense; ++p) dense_.parameters()[static_cast<std::size_t>(p)].group = numbers[static_cast<std::size_t>(p)];
  group_of_table_.assign(numbers.begin() + dense, numbers.end());
}

template <class Model, class DenseRule> template <class Fn> void Optimizer<Model, DenseRule>::for_each_state(Fn&& fn) const {
  for (const auto& one : dense_.parameters())
    for (std::size_t slot = 0; slot < one.state.size(); ++slot)
      fn(OptimizerState{one.name, std::string(Admitted::state[slot].name), std::nullopt, one.state[slot]});
  for (const auto& table : model_->tables())
    for (const auto& shard : table.shards) {
      const auto slots = shard.local ? shard.local->storage.state_names() : std::vector<std::string>{};
      for (std::size_t slot = 0; slot < slots.size(); ++slot)
        fn(OptimizerState{table.description.name + ".weight", slots[slot], shard.box, shard.local->storage.state(slot)});
    }
}

template <class Model, class DenseRule>
auto Optimizer<Model, DenseRule>::norm(const Shards& shards, std::int64_t passes, std::span<const double> rates) const -> Norm {
  const auto& tables = model_->tables();
  const auto count = static_cast<std::int64_t>(tables.size());
  const auto& topology = model_->topology();
  auto sums = at::zeros({count + 2 + topology.world_size()}, at::kDouble);                   // [T squares, normaliser, passes, W rates]
  auto* values = sums.template mutable_data_ptr<double>();
  for (const auto& shard : shards) values[shard.table] += sum_of_squares(shard.gradients.sums);
  for (const auto& capture : model_->runtime().captures())
    if (capture.used.defined() && capture.used.grad().defined() && capture.normaliser.defined())
      values[count] += capture.normaliser.template item<double>();
  values[count + 1] = static_cast<double>(passes);
  for (const double rate : rates) values[count + 2 + topology.rank()] += rate;
  sums = all_reduce(model_->topology(), std::move(sums)).wait();
  values = sums.template mutable_data_ptr<double>();
  check<Error>(values[count + 1] > 0, "Optimizer: step() without backward() from any rank's forward pass since the last one");
  for (int rank = 1; rank < topology.world_size(); ++rank)
    check<ConfigError>(values[count + 2 + rank] == values[count + 2], "Optimizer: the learning rate factor is ", values[count + 2],
                       " on rank 0 and ", values[count + 2 + rank], " on rank ", rank,
                       options_.groups.empty() ? "" : ", summed over groups");
  Norm norm{.squares = 0, .normaliser = values[count], .not_finite = {}};
  if (divides && !(std::isfinite(values[count]) && values[count] >= 0))
    norm.not_finite = concat("the loss's normaliser, summed over ranks, is ", values[count]);
  const auto add = [&](double squares, const std::string& name) {
    if (!std::isfinite(squares) && norm.not_finite.empty()) norm.not_finite = concat("the gradient of '", name, "' is not finite");
    norm.squares += squares;
  };
  for (const auto& one : dense_.parameters())
    if (one.gradient.defined()) add(sum_of_squares(one.gradient), one.name);
  for (std::size_t t = 0; t < tables.size(); ++t) add(values[t], tables[t].description.name + ".weight");
  return norm;
}

}  // namespace rookery
