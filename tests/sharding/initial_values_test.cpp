// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Initial values are a function of seed, name and position: the same bits under every plan, on any number of ranks.

#include <ATen/ops/equal.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/mix.hpp>
#include <rookery/core/random.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/equivalence.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Tensors;
using cases::Trial;

double hashed(std::uint64_t key, std::int64_t element) {
  return static_cast<double>(mix64(key + static_cast<std::uint64_t>(element)) >> 40) * 0x1p-24;
}

/// A random model under a random plan whose tables follow random laws, in all dtypes that a collection may mix.
Trial draw(std::uint64_t seed, int ranks) {
  auto trial = cases::draw_trial(seed, ranks, seed % 2 == 0 ? at::kDouble : at::kFloat);
  cases::Draw of(seed);
  const std::vector<Initial> laws{Uniform{}, Uniform{2}, Uniform{.min = -1, .max = 3}, Normal{.5}, Zeros{}, Constant{.25},
                                  OwnLaw{"hashed", &hashed}};
  for (auto* tables : {&trial.bags, &trial.weighted, &trial.sequences})
    for (auto& table : *tables) {
      table.initial = of.one_of(laws);
      if (trial.dtype == at::kFloat) table.data_type = of.one_of<at::ScalarType>({at::kFloat, at::kHalf, at::kBFloat16});
    }
  return trial;
}

/// Every tensor of a trial's model as it is placed.
template <class Topology> Tensors placed(Topology& topology, const Trial& trial, const ShardingOptions& placement) {
  cases::TrialModel declared{.bags = trial.bags,
                             .weighted = {trial.weighted, {.is_weighted = true}},
                             .sequences = cases::sequence_tables(trial.sequences),
                             .over = {5, {3, 1}, FinalActivation::none, trial.dtype},
                             .position = Parameter({8}, Normal{}, 0, trial.dtype)};
  const ShardingPolicy<Topology> sharding(topology, placement);
  auto model = sharding.apply(ModelAndLoss<cases::TrialModel, Bce, cases::TrialBatch>{std::move(declared), {}});
  Tensors found;
  cases::gather_tables(model, found);
  model.for_each_parameter([&](std::string_view name, const Parameter& one) { found.emplace_back(name, one.tensor().detach().clone()); });
  return found;
}

}  // namespace

TEST_SUITE("sharding/initial_values") {
  TEST_CASE("law: tables, state and dense parameters start with the same bits under every plan, on 1 to 8 ranks, whatever their law") {
    Local local;
    for (std::uint64_t seed = 1; seed <= 64; ++seed) {
      const auto trial = draw(seed, static_cast<int>(seed % 8) + 1);
      const auto expected = placed(local, trial, {.seed = trial.placement.seed});
      std::vector<Tensors> found(static_cast<std::size_t>(trial.ranks));
      Threads::run(trial.ranks, [&](Threads topology) {
        found[static_cast<std::size_t>(topology.rank())] = placed(topology, trial, trial.placement);
      }, {.local_world_size = trial.local_world_size});
      CAPTURE(seed);
      for (const auto& of_rank : found) {
        REQUIRE(of_rank.size() == expected.size());
        for (std::size_t i = 0; i < expected.size(); ++i)
          CHECK_MESSAGE((of_rank[i].first == expected[i].first && at::equal(of_rank[i].second, expected[i].second)), expected[i].first);
      }
    }
  }
}

}  // namespace rookery
