// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Names of parameters, buffers, tables and state are those of the model, whatever the plan and the ranks.

#include <rookery/sharding/sharded.hpp>

#include <mutex>
#include <set>
#include <string>
#include <utility>

#include <rookery/modules/batch_norm.hpp>
#include <rookery/optim/dense_state.hpp>
#include <rookery/optim/optimizer.hpp>

#include "support/equivalence.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// The tables and layers of a trial, and a part with buffers.
struct Named {
  EmbeddingBagCollection<AllRules> bags, weighted;
  EmbeddingCollection<AllRules> sequences;
  std::vector<BatchNorm> norms;
  Mlp over{3, {4, 1}};
  static constexpr auto members() {
    return rookery::members("bags", &Named::bags, "weighted", &Named::weighted, "sequences", &Named::sequences, "norms", &Named::norms,
                            "over", &Named::over);
  }
  auto lookups(const TrialBatch& b) const {
    return rookery::lookups(rookery::lookup<&Named::bags>(b.bags), rookery::lookup<&Named::weighted>(b.weighted),
                            rookery::lookup<&Named::sequences>(b.sequences));
  }
  TrialOutput forward(const TrialBatch& b, const auto&) { return {over(b.dense).squeeze(1)}; }
};

/// Every name that a rank sees, of what it is.
template <class Topology> std::multiset<std::string> names(Topology& topology, const Trial& trial, const ShardingOptions& placement) {
  ModelAndLoss<Named, Bce, TrialBatch> declared{
      {.bags = trial.bags, .weighted = {trial.weighted, {.is_weighted = true}}, .sequences = sequence_tables(trial.sequences), .norms = {}},
      {}};
  declared.model.norms.emplace_back(3);
  declared.model.norms.emplace_back(2);
  auto model = maybe_shard_model(std::move(declared), topology, placement);
  Optimizer step(model, Adam{});
  std::multiset<std::string> found;
  model.for_each_parameter([&](std::string_view name, const Parameter&) { found.insert(concat("parameter ", name)); });
  model.for_each_buffer([&](std::string_view name, const Buffer&) { found.insert(concat("buffer ", name)); });
  for (const auto& table : model.tables()) found.insert("table " + table.description.name);
  for (const auto& [name, tensor] : dense_state(step)) found.insert("dense state " + name);
  return found;
}
/// State on this rank: parameter, or table, and slot.
template <class Topology> std::set<std::string> states(Topology& topology, const Trial& trial, const ShardingOptions& placement) {
  ModelAndLoss<Named, Bce, TrialBatch> declared{
      {.bags = trial.bags, .weighted = {trial.weighted, {.is_weighted = true}}, .sequences = sequence_tables(trial.sequences), .norms = {}},
      {}};
  auto model = maybe_shard_model(std::move(declared), topology, placement);
  const Optimizer step(model, Adam{});
  std::set<std::string> found;
  step.for_each_state([&](const OptimizerState& state) { found.insert(concat(state.parameter, " ", state.slot)); });
  return found;
}

}  // namespace

TEST_SUITE("sharding/names") {
  TEST_CASE("names do not depend on the plan: 60 random ones on 1 to 8 ranks against one process") {
    for (std::uint64_t seed = 500; seed < 560; ++seed) {
      CAPTURE(seed);
      const auto trial = draw_trial(seed);
      Local local;
      const auto wanted = names(local, trial, {});
      const auto wanted_states = states(local, trial, {});
      CHECK(wanted.count("buffer norms.1.running_var") == 1);
      CHECK(wanted.count("table bags.embedding_bags.bag0") == 1);
      std::set<std::string> of_all;                          // a rank has the state of its shards
      std::mutex mutex;
      bool same = true;
      Threads::run(trial.ranks, [&](Threads topology) {
        const auto mine = names(topology, trial, trial.placement);
        const auto my_states = states(topology, trial, trial.placement);
        const std::lock_guard lock(mutex);
        same = same && mine == wanted;
        of_all.insert(my_states.begin(), my_states.end());
      }, {.local_world_size = trial.local_world_size});
      CHECK(same);
      CHECK(of_all == wanted_states);
    }
  }
}

}  // namespace rookery
