// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Two runs with the same seed, plan and world size leave the same bits everywhere: outputs, losses, weights and all state.

#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/scalar_tensor.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/mix.hpp>
#include <rookery/topology/gloo.hpp>
#include <rookery/topology/threads.hpp>

#include "support/equivalence.hpp"
#include "support/processes.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Tensors;
using cases::Trial;

/// What every rank finds.
std::vector<Tensors> train_on_threads(const Trial& trial) {
  const auto rounds = cases::draw_rounds(trial);
  std::vector<Tensors> found(static_cast<std::size_t>(trial.ranks));
  Threads::run(trial.ranks, [&](Threads topology) {
    found[static_cast<std::size_t>(topology.rank())] = cases::train(topology, trial.placement, trial, rounds);
  }, {.local_world_size = trial.local_world_size});
  return found;
}

/// A trial of larger batches.
Trial larger(std::uint64_t seed, int ranks) {
  auto trial = cases::draw_trial(seed, ranks, seed % 2 == 0 ? at::kDouble : at::kFloat);
  trial.largest_batch = 200;
  trial.steps = 3;
  return trial;
}

/// Trains the bags of a trial alone, grown so that kernels share them out among threads, under gradients that are given: LibTorch's own
/// products and sums depend on the number of threads, what the library does with tables must not.
template <class Topology> Tensors train_tables(Topology& topology, const Trial& trial) {
  auto tables = trial.bags;
  for (auto& table : tables) table.num_embeddings *= 100;
  auto placement = trial.placement;
  placement.plan = {};
  const auto kind = static_cast<ShardingKind>(trial.seed % sharding_kind_names.size());
  for (const auto& table : tables) placement.constraints[table.name].kinds = {kind};
  std::erase_if(placement.constraints, [&](const auto& one) { return one.first.find("bag") != 0; });
  const ShardingPolicy<Topology> sharding(topology, placement);
  auto model = sharding.apply(EmbeddingBagCollection<cases::AllRules>(tables));
  Optimizer step(model, Sgd{}, {.clip_norm = trial.clip_norm});
  cases::Draw draw(trial.seed);
  Tensors found;
  for (int i = 0; i < 3; ++i) {
    constexpr std::int64_t rows = 600;
    const auto ids = cases::draw_ids(draw, tables, rows, {.longest_bag = 8});
    const auto gradient = draw.tensor({rows, model.model().width()}, trial.dtype);
    const auto ranks = topology.world_size(), rank = topology.rank();
    const auto begin = rows * rank / ranks, end = rows * (rank + 1) / ranks;
    const auto pooled = model(ids.slice(begin, end)).values();
    pooled.mul(gradient.narrow(0, begin, end - begin)).sum().backward();
    step();
    found.emplace_back(concat("pooled ", i), pooled.detach());
    found.emplace_back(concat("norm ", i), at::scalar_tensor(step.gradient_norm(), at::kDouble));
  }
  cases::gather_tables(model, found);
  return found;
}

/// The first tensor that differs in a bit; empty when none does.
std::string differing(const Tensors& found, const Tensors& expected) {
  if (found.size() != expected.size()) return "another number of tensors";
  for (std::size_t i = 0; i < found.size(); ++i)
    if (!at::equal(found[i].second.nan_to_num(), expected[i].second.nan_to_num())) return expected[i].first;
  return "";
}

/// A number for all names and bits.
std::uint64_t digest(const Tensors& tensors) {
  std::uint64_t hash = 0;
  for (const auto& [name, tensor] : tensors) {
    for (const char c : name) hash = mix64(hash ^ static_cast<unsigned char>(c)) + 1;
    const auto whole = tensor.contiguous();
    const auto* bytes = static_cast<const unsigned char*>(whole.const_data_ptr());
    for (std::size_t i = 0; i < whole.nbytes(); ++i) hash = mix64(hash ^ bytes[i]) + 1;
  }
  return hash;
}

[[maybe_unused]] const bool listed = cases::roles().emplace("digest", +[] {
  return cases::play([](Gloo& topology) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const auto trial = larger(seed, topology.world_size());
      const auto found = cases::train(topology, trial.placement, trial, cases::draw_rounds(trial)), tables = train_tables(topology, trial);
      if (topology.rank() == 0)
        std::printf("%016llx %016llx\n", static_cast<unsigned long long>(digest(found)), static_cast<unsigned long long>(digest(tables)));
    }
    return std::string();
  });
}).second;

}  // namespace

TEST_SUITE("sharding/determinism") {
  TEST_CASE("two runs with the same seed, plan and world size are bit-identical on threads: outputs, losses, weights, all state") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      const auto trial = larger(seed, 0);
      const auto once = train_on_threads(trial), again = train_on_threads(trial);
      CAPTURE(seed);
      for (std::size_t rank = 0; rank < once.size(); ++rank) CHECK(differing(again[rank], once[rank]) == "");
    }
  }

  TEST_CASE("two runs with the same seed, plan and world size are bit-identical on processes over Gloo") {
    for (const int ranks : {2, 3}) {
      const auto once = cases::run_processes("digest", ranks), again = cases::run_processes("digest", ranks);
      CHECK_MESSAGE(once.status == 0, once.said);
      CHECK(once.said == again.said);
      CHECK(once.said.size() == 5 * 34);
    }
  }

  TEST_CASE("tables, their state and the gradient's norm do not depend on the number of intra-op threads, by a bit") {
    for (std::uint64_t seed = 1; seed <= 21; ++seed) {
      const auto trial = larger(seed, seed % 3 == 0 ? 4 : 0);
      std::vector<Tensors> once(static_cast<std::size_t>(trial.ranks)), wider = once;
      const auto run = [&](std::vector<Tensors>& found, int threads) {
        Threads::run(trial.ranks, [&](Threads topology) {
          at::set_num_threads(threads);
          found[static_cast<std::size_t>(topology.rank())] = train_tables(topology, trial);
        }, {.local_world_size = trial.local_world_size});
      };
      run(once, 1);
      run(wider, 3);
      CAPTURE(seed);
      for (std::size_t rank = 0; rank < once.size(); ++rank) CHECK(differing(wider[rank], once[rank]) == "");
    }
  }
}

}  // namespace rookery
