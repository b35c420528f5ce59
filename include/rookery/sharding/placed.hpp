// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Placed: what models and collections have in common once they are placed: members, plan, tables, passes.
//
// PlacedMembers is compiled once for all topologies of a program, Placed for each. Users meet both in sharding/sharded.hpp.
// Stands in for the parts of torchrec's DistributedModelParallel that hold modules.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <torch/headeronly/version.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/comm/agree.hpp>
#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/broadcast.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/core/pass.hpp>
#include <rookery/core/version.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/planner/plan.hpp>
#include <rookery/sharding/exchange_options.hpp>
#include <rookery/sharding/fused_step.hpp>
#include <rookery/sharding/placement.hpp>
#include <rookery/sharding/shared_tensors.hpp>
#include <rookery/sharding/table_runtime.hpp>
#include <rookery/sharding/table_view.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery {

struct ShardingOptions {
  Plan plan{};                       // by hand, or from a file; empty: the default placement
  Constraints constraints{};         // of the default placement, by table
  std::uint64_t seed = 0;            // of initial values
  ExchangeOptions exchange{};        // how embeddings travel between ranks
  BufferPolicy buffers = BufferPolicy::synchronised;
};

namespace detail {

inline constexpr std::array<const char*, 3> policy_names{"synchronised", "broadcast", "local"};   // of BufferPolicy

/// The plan of these tables, which are given its shards. Errors: PlanError for a plan that does not fit them.
inline Plan plan_of(std::vector<PlacedTable>& tables, const ShardingOptions& options, int world_size, int local_world_size) {
  std::vector<TableDescription> described;
  for (const auto& table : tables) described.push_back(table.description);
  const bool by_default = options.plan.tables.empty() && options.plan.world_size == 0;
  if (!by_default && !options.constraints.empty())
    fail<ConfigError>("ShardingPolicy: there are constraints, on '", options.constraints.begin()->first, "' first, beside a plan for ",
                      options.plan.tables.size(), " tables, which says all that they could; leave out one or the other");
  auto plan = by_default ? place(described, world_size, options.constraints, local_world_size)
                         : complete(options.plan, described, world_size, local_world_size);
  validate(plan, described, world_size);
  for (std::size_t t = 0; t < tables.size(); ++t) {
    for (const auto& [box, rank] : plan.tables[t].shards) tables[t].shards.push_back({box, rank, nullptr});
    tables[t].is_replicated = plan.tables[t].is_replicated(described[t], world_size);
    tables[t].is_hierarchical = plan.tables[t].hierarchical;
  }
  return plan;
}

}  // namespace detail

/// What a placed model is whatever the topology: members, tables, captures. Compiled once for all topologies of a program.
template <class Model> class PlacedMembers {
 public:
  PlacedMembers(const PlacedMembers&) = delete;
  PlacedMembers& operator=(const PlacedMembers&) = delete;

  const Plan& plan() const { return plan_; }
  /// The user's own struct. A copy of it shares the weights.
  Model& model() { return model_; }
  const Model& model() const { return model_; }

  /// Gradients are captured when training and grad mode are both on. Modules that behave otherwise in training do so. Starts on.
  void train(bool on = true) { pass_->training = on; }
  bool is_training() const { return pass_->training; }

  /// Calls `fn(name, parameter)` for every dense parameter, in member order.
  template <class Fn> void for_each_parameter(Fn&& fn) {
    for (const auto& [name, parameter] : parameters_) fn(std::string_view(name), *parameter);
  }
  /// Calls `fn(name, buffer)` for every buffer, in member order.
  template <class Fn> void for_each_buffer(Fn&& fn) {
    for (const auto& [name, buffer] : buffers_) fn(std::string_view(name), *buffer);
  }
  /// Calls `fn(path, collection, first)` for every collection; `first` is the number of its first table in `tables()`.
  template <class Fn> void for_each_collection(Fn&& fn) {
    std::size_t first = 0;
    visit_leaves<Collections>(model_, "", [&](std::string_view path, auto& collection) {
      fn(path, collection, first);
      first += collection.configs().size();
    });
  }
  /// Ids that were left out under BadIds::drop or empty_bag on this rank since the model was placed.
  std::vector<BadIdCount> bad_ids() const { return runtime_.bad_ids(); }
  /// All tables and where their shards are, in member order.
  const std::vector<PlacedTable>& tables() const { return runtime_.routing().tables; }
  TableRuntime& runtime() { return runtime_; }

  /// The rest of a backward pass that stopped where modules sum over ranks. Called by Optimizer. Ranks: all, in the same order.
  void complete_backward() { pass_->complete(); }
  /// Under BufferPolicy::broadcast, rank 0's buffers become those of all ranks. Called by Optimizer. Ranks: all, in the same order.
  void share_buffers() {
    if (pass_->buffers == BufferPolicy::broadcast && pass_->of_first)
      for (const auto& [name, buffer] : buffers_) pass_->take_from_first(*buffer);
  }
  /// Forgets passes without a step. Called by Optimizer.
  void clear_passes() {
    runtime_.clear();
    pass_->clear();
  }
  /// What the modules of this model and its optimizer share.
  const std::shared_ptr<detail::PassState>& pass_state() const { return pass_; }
  /// What the host's kernels need to update local shards in a step. Called by Optimizer.
  std::vector<kernels::RowTask> row_tasks(std::span<const detail::ShardStep> steps);
  /// On a device: the rules' sums over the columns of local shards, for the rows that have gradients. Called by Optimizer.
  [[gnu::cold]] void row_sums_there(std::span<const detail::ShardStep> steps, std::span<detail::ShardGradients> shards) {
    for_each_shard(steps, [&](std::size_t i, auto& collection, const LocalShard& local) {
      collection.row_sums_there(local, shards[i].gradients, steps[i].context);
    });
  }
  /// On a device: one update of each row that has a gradient. Called by Optimizer.
  [[gnu::cold]] void update_there(std::span<const detail::ShardStep> steps, std::span<const detail::ShardGradients> shards) {
    for_each_shard(steps, [&](std::size_t i, auto& collection, const LocalShard& local) {
      collection.update_there(local, shards[i].gradients, steps[i].context);
    });
  }
  /// Vocabularies of managed collision take in the ids of the captured passes. Called by Optimizer, after all updates.
  void end_step();

 protected:
  explicit PlacedMembers(Model model) : model_(std::move(model)) {}

  bool on_device() const { return runtime_.routing().on_device(); }
  bool capturing() const { return pass_->training && at::GradMode::is_enabled(); }
  detail::PassState& pass() { return *pass_; }

  /// Lists members and tables.
  /// Errors: ConfigError where two have one full name, or a part of the model is for a feature that no table has.
  void list_members();
  /// Errors: PlanError for a plan that does not fit the tables.
  void plan_tables(const ShardingOptions& options, int world_size, int local_world_size) {
    plan_ = detail::plan_of(runtime_.routing().tables, options, world_size, local_world_size);
    runtime_.routing().exchange = options.exchange;
  }
  /// What ranks must have in common before they plan, line by line.
  std::string declaration(const ShardingOptions& options);
  /// Names of the parameters whose tensors something else computes with too, and their addresses, behind them the process.
  std::pair<std::vector<std::string>, std::vector<std::int64_t>> shared_tensors() const;
  /// Allocates and fills the shards of this rank, and what is dense, on the device.
  void place(std::uint64_t seed, int rank, c10::Device device);
  /// Calls `fn(leaf)` for every parameter, then every buffer.
  template <class Fn> void for_each_dense(Fn&& fn) {
    for (const auto& [name, parameter] : parameters_) fn(*parameter);
    for (const auto& [name, buffer] : buffers_) fn(*buffer);
  }
  /// The lookups in their order, a line each.
  std::string lookup_lines() {
    std::string lines;
    for (const auto& lookup : runtime_.routing().lookups) lines += concat("lookup of ", lookup.collection, "\n");
    return lines;
  }
  /// Tells the runtime what lookups there will be: the collection of each, by address.
  void expect_lookups(const std::vector<const void*>& collections, int rank, int world_size, int local_world_size);

 private:
  struct Collections {
    template <class Leaf> static constexpr bool wants = EmbeddingTables<Leaf>;
  };
  template <class Leaf> struct Named {
    std::string name;
    Leaf* leaf = nullptr;
  };

  /// Calls `fn(i, collection, local shard)` for each shard; members are visited once for all of them.
  template <class Fn> void for_each_shard(std::span<const detail::ShardStep> shards, Fn&& fn) {
    for_each_collection([&](std::string_view, auto& collection, std::size_t first) {
      for (std::size_t i = 0; i < shards.size(); ++i)
        if (shards[i].table >= first && shards[i].table < first + collection.configs().size())
          fn(i, collection, *tables()[shards[i].table].shards[shards[i].shard].local);
    });
  }

  Model model_;
  std::vector<Named<Parameter>> parameters_;     // in member order
  std::vector<Named<Buffer>> buffers_;
  Plan plan_;
  TableRuntime runtime_;
  std::shared_ptr<detail::PassState> pass_ = std::make_shared<detail::PassState>();
};

template <class Model> void PlacedMembers<Model>::list_members() {
  auto& tables = runtime_.routing().tables;
  std::vector<std::string> names, features, expected;
  std::size_t collections = 0;
  visit_leaves(model_, "", [&](std::string_view path, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, Parameter> || std::is_same_v<Leaf, Buffer>) names.emplace_back(path);
    if constexpr (std::is_same_v<Leaf, Parameter>) parameters_.push_back({std::string(path), &leaf});
    if constexpr (std::is_same_v<Leaf, Buffer>) buffers_.push_back({std::string(path), &leaf});
    if constexpr (std::is_same_v<Leaf, Pass>) leaf.connect(path, pass_);
    if constexpr (requires { leaf.expected_features; })
      expected.insert(expected.end(), leaf.expected_features.begin(), leaf.expected_features.end());
    if constexpr (EmbeddingTables<Leaf>) {
      for (const auto& one : leaf.features()) features.push_back(one.feature);
      for (auto& table : leaf.describe(path)) {
        names.push_back(table.name + ".weight");
        tables.push_back({.description = std::move(table), .collection = collections});
      }
      ++collections;
    }
  });
  detail::check_names(names);
  if (!features.empty()) detail::check_features(expected, features);
}

template <class Model> std::string PlacedMembers<Model>::declaration(const ShardingOptions& options) {
  auto lines = concat("rookery ", version, ", LibTorch ", TORCH_VERSION, "\nseed ", options.seed, "\nbuffers ",
                      detail::policy_names[static_cast<std::size_t>(options.buffers)], "\nexchange: forward ",
                      to_string(options.exchange.forward_precision), "; backward ", to_string(options.exchange.backward_precision));
  detail::declare_tables(tables(), lines);
  for (const auto& [name, parameter] : parameters_)
    lines += concat("\n", name, " ", c10::toString(parameter->dtype()), " ", parameter->shape(),
                    parameter->is_shared() ? " of a torch::nn::Module" : "");
  for (const auto& [name, buffer] : buffers_) lines += concat("\n", name, " ", c10::toString(buffer->dtype()), " ", buffer->shape());
  return lines;
}

template <class Model> std::pair<std::vector<std::string>, std::vector<std::int64_t>> PlacedMembers<Model>::shared_tensors() const {
  std::vector<std::string> names;
  std::vector<std::int64_t> addresses;
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter->is_shared()) continue;
    names.push_back(name);
    addresses.push_back(parameter->shared_address());
  }
  addresses.push_back(detail::process_identity());
  return {std::move(names), std::move(addresses)};
}

template <class Model> void PlacedMembers<Model>::place(std::uint64_t seed, int rank, c10::Device device) {
  pass_->device = runtime_.routing().device = device;
  auto& tables = runtime_.routing().tables;
  for_each_collection([&](std::string_view, auto& collection, std::size_t first) {
    for (std::size_t t = 0; t < collection.configs().size(); ++t) {
      const auto& table = tables[first + t];
      for (std::size_t s = 0; s < table.shards.size(); ++s)
        if (table.shards[s].rank == rank) collection.place(t, s, table.shards[s].box, random_key(seed, table.description.name), device);
    }
    collection.placed();
    for (const auto& local : collection.shards()) tables[first + local.table].shards[local.shard].local = &local;
  });
  for (const auto& [name, parameter] : parameters_) parameter->place(name, seed, device);
  for (const auto& [name, buffer] : buffers_) buffer->place(name, device);
}

template <class Model>
void PlacedMembers<Model>::expect_lookups(const std::vector<const void*>& collections, int rank, int world_size, int local_world_size) {
  auto& routing = runtime_.routing();
  for (std::size_t l = 0; l < collections.size(); ++l)
    for_each_collection([&](std::string_view path, auto& collection, std::size_t first) {
      if (&collection != collections[l]) return;
      routing.lookups.push_back({.collection = std::string(path),
                                 .dtype = collection.data_type(),
                                 .width = collection.width(),
                                 .is_weighted = collection.is_weighted(),
                                 .is_sequence = collection.is_sequence,
                                 .bad_ids = collection.bad_ids(),
                                 .missing_features = collection.missing_features(),
                                 .columns = collection.columns()});
      for (const auto& feature : collection.features())
        routing.slots.push_back({l, feature.feature, first + feature.table, feature.column});
    });
  routing.lay_out(rank, world_size, local_world_size);
}

template <class Model> std::vector<kernels::RowTask> PlacedMembers<Model>::row_tasks(std::span<const detail::ShardStep> steps) {
  std::vector<kernels::RowTask> tasks(steps.size());
  for_each_shard(steps, [&](std::size_t i, auto& collection, const LocalShard& local) {
    tasks[i] = collection.row_task(local, steps[i].context);
  });
  return tasks;
}

template <class Model> void PlacedMembers<Model>::end_step() {
  for_each_collection([&](std::string_view, auto& collection, std::size_t first) {
    for (auto& local : collection.shards())
      if (local.vocabulary) {
        runtime_.for_each_id(first + local.table, local.shard, [&](std::span<const std::int64_t> ids) { local.vocabulary.see(ids); });
        collection.renew(local, local.vocabulary.step());
      }
  });
}

/// What a placed model and a placed collection have in common on a topology.
template <class Model, class Topology> class Placed : public PlacedMembers<Model> {
 public:
  Placed(Model model, Topology& topology, const ShardingOptions& options) : PlacedMembers<Model>(std::move(model)), topology_(&topology) {
    auto& pass = this->pass();
    pass.seed = options.seed, pass.rank = topology.rank(), pass.world_size = topology.world_size(), pass.buffers = options.buffers;
    if constexpr (Topology::is_distributed) {
      pass.topology = &topology;
      pass.sum = [](void* on, at::Tensor tensor) { return all_reduce(*static_cast<Topology*>(on), std::move(tensor)).wait(); };
      pass.of_first = [](void* on, at::Tensor tensor) { return broadcast(*static_cast<Topology*>(on), std::move(tensor), 0).wait(); };
    }
    this->list_members();
    if constexpr (Topology::is_distributed) agree(topology, "ShardingPolicy", this->declaration(options));
    this->plan_tables(options, topology.world_size(), detail::ranks_on_each_node(topology));
    if constexpr (Topology::is_distributed) {
      agree(topology, "ShardingPolicy", this->plan().report());
      if (const auto [names, addresses] = this->shared_tensors(); !names.empty())
        detail::refuse_shared_tensors(names, all_gather_v(topology, detail::host_tensor(addresses)).wait());
    }
    this->place(options.seed, topology.rank(), topology.device());
    if constexpr (Topology::is_distributed)
      this->for_each_dense([&](auto& leaf) { this->pass().take_from_first(leaf); });
  }

  Topology& topology() const { return *topology_; }

  /// The rows of a table by its full name, "user.embedding_bags.user_id", or its config's where that is unique. Errors: IndexError.
  TableView<Placed> table(std::string_view name) { return {*this, name}; }

 private:
  Topology* topology_;
};

}  // namespace rookery
