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

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
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
#include <rookery/optim/device_step.hpp>
#include <rookery/optim/gradient_buckets.hpp>
#include <rookery/optim/parameter_group.hpp>
#include <rookery/optim/step_norm.hpp>
#include <rookery/rules/probe.hpp>
#include <rookery/sharding/device_sums.hpp>
#include <rookery/sharding/fused_step.hpp>
#include <rookery/sharding/gradient_exchange.hpp>

namespace rookery {

/// What to do with a gradient that is not finite: stop every rank, or leave everything as it was and count the step as skipped.
enum class NonFinite { error, skip };

struct OptimizerOptions {
  double clip_norm = 0;                          // largest norm of the whole gradient; 0: no clipping
  double clip_value = 0;                         // then: largest absolute value of an element of it; 0: no clipping
  NonFinite non_finite = NonFinite::error;
  std::vector<ParameterGroup> groups{};          // learning rates and schedules of parameters and tables, by name
  GradientDivision division = GradientDivision::global_mean;
  BucketOptions buckets{};                       // of dense gradients on several ranks
};

/// A tensor of optimizer state that is on this rank.
struct OptimizerState {
  std::string parameter;                         // full name: "over.layers.0.weight", "item.embedding_bags.item_id.weight"
  std::string slot;                              // "exp_avg"
  std::optional<ShardBox> box{};                 // of a table: the rectangle whose rows this is the state of
  at::Tensor tensor;
};

namespace detail {

inline void check_options(const OptimizerOptions& options) {
  check<ConfigError>(options.clip_norm >= 0, "Optimizer: clip_norm is ", options.clip_norm, "; it must not be negative");
  check<ConfigError>(options.clip_value >= 0, "Optimizer: clip_value is ", options.clip_value, "; it must not be negative");
  check<ConfigError>(options.buckets.bytes > 0 && options.buckets.first_bytes > 0, "Optimizer: buckets of ", options.buckets.bytes,
                     " bytes, the first of ", options.buckets.first_bytes, "; sizes must be positive");
}

/// What ranks must have in common, line by line.
inline std::string option_lines(const OptimizerOptions& options, std::span<const DenseParameter> dense, const std::string& rule) {
  auto lines = concat("clip_norm ", options.clip_norm, "\nclip_value ", options.clip_value,
                      options.non_finite == NonFinite::skip ? "\nnon_finite skip" : "\nnon_finite error", "\ndivision ",
                      division_names[static_cast<std::size_t>(options.division)], "\nbuckets of ", options.buckets.bytes, " bytes after ",
                      options.buckets.first_bytes, ", overlap in pass ", options.buckets.overlap.pass, "\ndense parameters: ", rule);
  for (const auto& group : options.groups) lines += concat("\ngroup ", group.pattern, " times ", group.learning_rate_factor);
  for (const auto& one : dense)
    if (one.parameter->is_frozen()) lines += concat("\nfrozen ", one.name);
  return lines;
}

/// Tells each parameter its group, and gives those of the tables.
inline std::vector<std::size_t> assign_groups(std::span<const ParameterGroup> groups, std::span<DenseParameter> dense,
                                              std::span<const PlacedTable> tables) {
  std::vector<std::string> names;
  for (const auto& one : dense) names.push_back(one.name);
  for (const auto& table : tables) names.push_back(table.description.name + ".weight");
  auto numbers = group_numbers(groups, names);
  for (std::size_t p = 0; p < dense.size(); ++p) dense[p].group = numbers[p];
  numbers.erase(numbers.begin(), numbers.begin() + static_cast<std::ptrdiff_t>(dense.size()));
  return numbers;
}

}  // namespace detail

/// Steps a placed model. The tables follow their own rules, the dense parameters `DenseRule`.
///
/// `step()` uses every forward pass since the last step whose gradients were captured: several are one larger batch. The gradient is
/// divided by the loss's normaliser, summed over ranks and passes, or as GradientDivision says, then clipped by norm, then by value.
/// Errors:  NonFiniteError naming the first parameter or table, Error when backward() was forgotten, both before any weight or state
///          has changed; ConfigError when ranks were given different options or learning rate factors.
/// Cost:    one all-reduce of each bucket of dense gradients, meanwhile one exchange of table gradients; one small all-reduce of norms.
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
  Optimizer(Model& model, DenseRule rule, OptimizerOptions options = {})
      : model_(&model), dense_(admit(rule)), options_(std::move(options)) {
    detail::check_options(options_);
    check_rule(dense_.rule(), "Optimizer");
    model.for_each_parameter([&](std::string_view name, Parameter& parameter) { dense_.add(std::string(name), parameter); });
    group_of_table_ = detail::assign_groups(options_.groups, dense_.parameters(), model.tables());
    model.pass_state()->own_mean = options_.division != GradientDivision::global_mean;
    if constexpr (is_distributed) {
      using Topology = std::remove_cvref_t<decltype(model.topology())>;
      agree(model.topology(), "Optimizer", detail::option_lines(options_, dense_.parameters(), rookery::describe(dense_.rule())));
      const detail::Sums sums{&model.topology(), &detail::start_sum<Topology>, &detail::finish_sum<Topology>};
      buckets_ = std::make_unique<detail::GradientBuckets>(dense_.parameters(), options_.buckets, model.pass_state(), sums);
    }
    tell_step();
  }

  /// One step; true when weights were updated, false when it was skipped. On a device with NonFinite::error nothing waits for the gradient
  /// to be known: one that is not finite changes nothing either, and the error comes with the next step, or from `wait`.
  bool operator()();
  /// Waits for the last step on a device. Errors: NonFiniteError of that step, if it was not reported yet.
  void wait();

  /// Forgets captured passes and gradients without a step.
  void clear() {
    dense_.clear();
    model_->clear_passes();
    if constexpr (is_distributed) buckets_->clear();
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
  double gradient_norm() const {
    if (!report_.has_come()) return gradient_norm_;
    const auto known = read_report();
    return std::sqrt(known.squares) * detail::gradient_scale(options_.division, divides, known.normaliser, known.passes);
  }

  const DenseOptimizer<Admitted>& dense() const { return dense_; }
  DenseOptimizer<Admitted>& dense() { return dense_; }

  /// Calls `fn(OptimizerState)` for all state on this rank: of dense parameters in member order, then of local shards of tables.
  /// Parameter, slot and box together are unique.
  template <class Fn> void for_each_state(Fn&& fn) const;

 private:
  /// Tells the topology's messages which step comes next.
  void tell_step() const {
    if constexpr (requires { model_->topology().at_step(count_); }) model_->topology().at_step(count_ + 1);
  }
  /// Whether the model's loss divides by anything.
  static constexpr bool divides = Model::divides;
  static constexpr bool is_distributed = std::remove_cvref_t<decltype(std::declval<Model&>().topology())>::is_distributed;

  /// Forgets passes and gradients when the step ends, also by an exception.
  struct Cleared {
    Optimizer& optimizer;
    ~Cleared() { optimizer.clear(); }
  };

  detail::ShardStep step_of(std::size_t table, std::size_t shard, std::span<const double> rates) const {
    return {table, shard, {.step = count_ + 1, .rate = rates[group_of_table_[table]]}};
  }
  /// What all ranks know of the step's gradients.
  [[gnu::noinline]] detail::StepNorm norm(std::span<const detail::ShardGradients> shards, std::span<const std::size_t> beyond,
                                          std::int64_t passes, std::span<const double> rates) const {
    const auto& runtime = model_->runtime();
    auto& topology = model_->topology();
    auto sums = detail::step_sums(shards, beyond, runtime.captures(), model_->tables(), passes, rates, topology.rank(),
                                  topology.world_size());                                    // [T + 2 + W]
    sums = all_reduce(topology, std::move(sums)).wait();
    return detail::read_step_sums(sums, model_->tables(), dense_.parameters(), detail::dense_squares(dense_.parameters()), divides);
  }
  /// What follows on a device once gradients are summed.
  [[gnu::cold]] bool step_there(std::vector<detail::ShardGradients>& shards, std::int64_t passes, std::span<const double> rates);
  [[gnu::cold]] detail::StepNorm read_report() const { return report_.read(model_->tables(), dense_.parameters(), divides); }
  /// What a gradient of this step that is not finite comes from, as the end of a sentence; nothing where there is no sentence.
  [[gnu::cold]] std::string cause() const {
    if (options_.non_finite == NonFinite::skip) return {};
    auto& topology = model_->topology();
    const auto& runtime = model_->runtime();
    auto here = detail::not_finite_here(dense_.parameters(), runtime.captures(), runtime.routing(), topology.world_size());
    return detail::cause_of(all_reduce(topology, std::move(here)).wait());
  }
  /// A gradient of this step is not finite: throws, or leaves the step out.
  [[gnu::cold]] void refuse(const std::string& not_finite) {
    if (options_.non_finite == NonFinite::skip) return void(++skipped_);
    fail<NonFiniteError>("step ", count_ + 1, ": ", not_finite, "; no weight was changed");
  }

  Model* model_;
  DenseOptimizer<Admitted> dense_;
  std::conditional_t<is_distributed, std::unique_ptr<detail::GradientBuckets>, void*> buckets_{};
  OptimizerOptions options_;
  std::vector<std::size_t> group_of_table_;
  std::int64_t count_ = 0, skipped_ = 0;
  double gradient_norm_ = 0, rate_ = 1;
  detail::StepReport report_;                    // of the last step on a device
};

template <class Model, class DenseRule> bool Optimizer<Model, DenseRule>::operator()() {
  const at::NoGradGuard no_grad;
  check<Error>(!model_->runtime().captures().empty(), "Optimizer: step() without a forward pass in training since the last one");
  const auto passes = detail::passes_with_gradients(model_->runtime().captures(), model_->runtime().routing());
  check<Error>(passes > 0 || !Model::has_loss, "Optimizer: step() without backward() from the loss of a forward pass since the last one (",
               model_->runtime().captures().size(), " of these); call loss.backward() first");
  const Cleared cleared{*this};
  wait();
  check<ConfigError>(model_->pass_state()->own_mean == (options_.division != GradientDivision::global_mean),
                     "Optimizer: another Optimizer of this model divides gradients otherwise");
  model_->complete_backward();
  model_->share_buffers();
  if constexpr (is_distributed) buckets_->send();
  else take_gradients(dense_.parameters());
  auto& topology = model_->topology();
  const auto& runtime = model_->runtime();
  const auto received = runtime.exchange(topology);
  const bool there = runtime.routing().on_device();
  const bool fusing = options_.clip_norm == 0 && options_.clip_value == 0 && detail::can_fuse_any(runtime.routing());
  auto fused = fusing ? runtime.fused(received) : std::vector<detail::FusedShard>{};
  auto shards = runtime.sums(topology, received, fusing);
  if constexpr (is_distributed) buckets_->receive();
  const auto rates = detail::group_rates(options_.groups, rate_, count_);
  if constexpr (concepts::may_have_device<std::remove_cvref_t<decltype(topology)>>())
    if (there) [[unlikely]] return step_there(shards, passes, rates);
  auto known = norm(shards, detail::tables_beyond(fused), passes, rates);
  if (fusing && !known.not_finite.empty()) {                 // on all ranks: sums may overflow, and must be known before rows change
    fused.clear();
    shards = runtime.sums(topology, received, false);
    known = norm(shards, {}, passes, rates);
  }
  const auto& [squares, normaliser, summed_passes, same_rates, not_finite] = known;
  if constexpr (is_distributed)
    if (!same_rates) agree(topology, concat("Optimizer: step ", count_ + 1), detail::rate_lines(options_.groups, rates));
  const double scale = detail::gradient_scale(options_.division, divides, normaliser, summed_passes);
  gradient_norm_ = std::sqrt(squares) * scale;
  if (!not_finite.empty()) {
    refuse(not_finite + cause());
    return false;
  }
  const double factor = options_.clip_norm > 0 ? scale * std::min(1.0, options_.clip_norm / (gradient_norm_ + 1e-6)) : scale;
  const bool clamps = options_.clip_value > 0;
  for (auto& shard : shards) shard.gradients.sums.mul_(factor);                              // [U, columns]
  if (clamps) {
    dense_.scale(factor);
    dense_.clamp(options_.clip_value);
    for (auto& shard : shards) shard.gradients.sums.clamp_(-options_.clip_value, options_.clip_value);   // [U, columns]
  }
  std::vector<detail::ShardStep> steps;
  for (const auto& shard : shards) steps.push_back(step_of(shard.table, shard.shard, rates));
  for (const auto& shard : fused) steps.push_back(step_of(shard.table, shard.shard, rates));
  auto tasks = model_->row_tasks(steps);
  auto sums = detail::row_sums(shards, tasks);
  detail::complete_row_sums(topology, runtime.routing(), shards, sums);
  detail::update_rows(shards, tasks, sums);
  if (fusing) {
    detail::update_fused(fused, std::span(tasks).subspan(shards.size()), scale);
    auto under_way = all_reduce(topology, detail::squares_of(fused));                        // [1]
    dense_.update(rates, {}, clamps ? 1 : factor);
    gradient_norm_ = std::sqrt(gradient_norm_ * gradient_norm_ + under_way.wait().template item<double>());
  } else {
    dense_.update(rates, {}, clamps ? 1 : factor);
  }
  model_->end_step();
  ++count_;
  tell_step();
  return true;
}

template <class Model, class DenseRule>
bool Optimizer<Model, DenseRule>::step_there(std::vector<detail::ShardGradients>& shards, std::int64_t passes,
                                             std::span<const double> rates) {
  auto& topology = model_->topology();
  const auto& tables = model_->tables();
  const auto& runtime = model_->runtime();
  const auto captures = runtime.captures();
  auto sums = detail::step_sums(shards, {}, captures, tables, passes, rates, topology.rank(), topology.world_size());   // [T + 2 + W]
  sums = all_reduce(topology, std::move(sums)).wait();
  const auto known = detail::read_step_sums(sums, tables, {}, {}, divides);                  // without what the device knows
  if constexpr (is_distributed)
    if (!known.same_rates) agree(topology, concat("Optimizer: step ", count_ + 1), detail::rate_lines(options_.groups, rates));
  const auto known_there = static_cast<std::int64_t>(tables.size()) + 1;
  auto there = detail::device_step_sums(shards, captures, tables, topology.device());        // [T + 1]
  if constexpr (is_distributed)
    if (options_.non_finite == NonFinite::error)
      there = ops::cat({there, detail::not_finite_there(dense_.parameters(), captures, runtime.routing(), topology.world_size())});
  there = all_reduce(topology, std::move(there)).wait();                                     // [T + 1 + 3 W]
  const auto numbers = detail::step_numbers(there.narrow(0, 0, known_there), dense_.parameters());   // [T + 1 + gradients]
  const auto [factor, valid] = detail::device_factor(numbers, static_cast<std::int64_t>(tables.size()), known.normaliser, known.passes,
                                                     options_.division, divides, options_.clip_norm);
  report_.send(numbers, there.narrow(0, known_there, there.numel() - known_there), std::move(sums), dense_.parameters());
  const auto gives_rows = [](const PlacedTable& table) { return static_cast<bool>(table.description.managed_collision); };
  if (options_.non_finite == NonFinite::skip || std::any_of(tables.begin(), tables.end(), gives_rows)) {
    report_.take_new();
    if (const auto all = read_report(); !all.not_finite.empty()) {
      refuse(all.not_finite);
      return false;
    }
  }
  dense_.scale(factor);
  if (options_.clip_value > 0) dense_.clamp(options_.clip_value);
  std::vector<detail::ShardStep> steps;
  for (auto& shard : shards) {
    shard.gradients.sums.mul_(factor);                                                       // [U, columns]
    if (options_.clip_value > 0) shard.gradients.sums.clamp_(-options_.clip_value, options_.clip_value);   // [U, columns]
    shard.gradients.valid = valid;                                                           // []
    steps.push_back(step_of(shard.table, shard.shard, rates));
  }
  model_->row_sums_there(steps, shards);
  detail::complete_device_row_sums(topology, runtime.routing(), shards);
  dense_.update(rates, valid);
  model_->update_there(steps, shards);
  model_->end_step();
  ++count_;
  tell_step();
  return true;
}

template <class Model, class DenseRule> void Optimizer<Model, DenseRule>::wait() {
  if (!report_.take_new()) return;
  const auto known = read_report();
  if (known.not_finite.empty()) return;
  --count_;                                      // it updated nothing
  dense_.uncount(report_.reached());
  tell_step();
  refuse(known.not_finite);
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

}  // namespace rookery
