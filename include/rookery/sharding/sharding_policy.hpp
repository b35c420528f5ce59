// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// ShardingPolicy<Topology>: turns a declared model into a placed one.
//
// Answers to the-algorithm-ml's maybe_shard_model and to torchrec's DistributedModelParallel with its planner; differs: plan,
// constraints and seed are said, Local takes the same road, and a refused model is one error.  Include cost: tensor.

#include <memory>
#include <optional>
#include <utility>

#include <rookery/concepts/communicator.hpp>
#include <rookery/sharding/model_and_loss.hpp>
#include <rookery/sharding/sharded.hpp>
#include <rookery/topology/local.hpp>

namespace rookery {

/// How models are placed on a topology. The topology outlives what it is applied to.
///
///   ShardingPolicy<Local> here{};                        auto model = here.apply(ModelAndLoss<..>{..});
///   ShardingPolicy<Threads> there{topology, {.seed = 7}};
template <class Topology> class ShardingPolicy {
  static constexpr bool is_topology = concepts::Topology<Topology>;
  static constexpr bool has_verbs = concepts::Communicator<Topology> || requires { requires !Topology::is_distributed; };
  static_assert(is_topology,
                "rookery::ShardingPolicy: a topology needs `is_distributed`, `name`, `rank()`, `world_size()` and `device()`; "
                "see docs/concepts.md#topology");
  static_assert(!is_topology || has_verbs,
                "rookery::ShardingPolicy: a distributed topology needs all verbs; see docs/concepts.md#communicator");

 public:
  explicit ShardingPolicy(Topology& topology, ShardingOptions options = {}) : topology_(&topology), options_(std::move(options)) {}
  /// Of a topology that has nothing to say, such as Local.
  ShardingPolicy()
    requires(!Topology::is_distributed)
      : topology_(&shared()) {}
  explicit ShardingPolicy(ShardingOptions options)
    requires(!Topology::is_distributed)
      : topology_(&shared()), options_(std::move(options)) {}

  /// Allocates and fills this rank's shards and the dense parameters; the model must be given away.
  /// Errors:  PlanError for a plan that does not fit the tables; ConfigError from the model's own parts.
  /// Cost:    bytes of the local shards; one broadcast of each dense parameter.
  /// Ranks:   all, in the same order.
  template <class Model, class Loss, class Batch> auto apply(ModelAndLoss<Model, Loss, Batch>&& declared) const {
    if constexpr (is_topology && has_verbs && detail::Trainable<Model, Loss, Batch>) {
      return Sharded<ModelAndLoss<Model, Loss, Batch>, Topology>(std::move(declared), *topology_, options_);
    } else {                                                   // explained already; keep the rest of the program quiet
      static Local nowhere;
      return Sharded<ModelAndLoss<ArchetypeModel, ArchetypeLoss, ArchetypeBatch>, Local>({}, nowhere, {});
    }
  }
  /// The same for a collection alone.
  template <class Collection>
    requires EmbeddingTables<Collection>
  auto apply(Collection&& declared) const {
    return Sharded<std::remove_cvref_t<Collection>, Topology>(std::move(declared), *topology_, options_);
  }

 private:
  static Topology& shared() {
    static Topology topology;
    return topology;
  }
  Topology* topology_;
  ShardingOptions options_;
};

/// `ShardingPolicy<Topology>{topology, options}.apply(model)` in one call.
template <class Declared, class Topology> auto maybe_shard_model(Declared&& declared, Topology& topology, ShardingOptions options = {}) {
  return ShardingPolicy<Topology>(topology, std::move(options)).apply(std::forward<Declared>(declared));
}

}  // namespace rookery
