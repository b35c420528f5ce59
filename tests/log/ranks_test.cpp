// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Numbers about weights are one process's under every plan and kind, on threads and on processes: weights_to_log, WeightLogger,
// log_ebc_norms and log_sharded_tensor_content.

#include <rookery/log/log_ebc_norms.hpp>
#include <rookery/log/log_sharded_tensor_content.hpp>
#include <rookery/log/weight_logger.hpp>
#include <rookery/log/weights_to_log.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "log/cases.hpp"
#include "metrics/cases.hpp"
#include "support/equivalence.hpp"
#include "support/processes.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Trial;

/// Reducers of both kinds for every parameter, by name, by pattern, in small exchanges and of samples.
template <class Model> LogValues values_of(Model& model) {
  LogValues values;
  values.add(weights_to_log(model, L2Norm{}));
  values.add(weights_to_log(model, L1Norm{}));
  values.add(weights_to_log(model, Mean{}));
  values.add(weights_to_log(model, MaxAbs{}));
  values.add(weights_to_log(model, StandardDeviation{}));
  values.add(weights_to_log(model, MeanRowNorm{}, {.rows_per_exchange = 3}));
  values.add(weights_to_log(model, MeanRowNorm{}, {.sample_rows = 4, .sample_seed = 2}));
  WeightLogger<PerParameter<For<"*embedding_bags.*", MeanRowNorm>, For<"*", MaxAbs>>> by_pattern(model);
  values.add(by_pattern(model));
  return values;
}

/// The mean norm of the rows [E, D] of which a rank holds any part, as `whole` has them; NaN for a rank that holds none.
double norm_on(const PlacedTable& table, const at::Tensor& whole, int rank) {
  const auto norms = whole.to(at::kDouble).norm(2, 1);                                       // [E]
  std::vector<bool> holds(static_cast<std::size_t>(norms.numel()));
  for (const auto& shard : table.shards)
    if (shard.rank == rank && table.is_primary(shard))
      std::fill(holds.begin() + shard.box.row_begin, holds.begin() + shard.box.row_end, true);
  double sum = 0, count = 0;
  for (std::int64_t r = 0; r < norms.numel(); ++r)
    if (holds[static_cast<std::size_t>(r)]) {
      sum += norms[r].item<double>();
      ++count;
    }
  return sum / count;
}

/// What is printed about all rows of a parameter.
template <class Model> std::string content(Model& model, const std::string& name, std::int64_t rows) {
  const cases::Scratch out;
  log_sharded_tensor_content(model, name, {.row_end = rows, .out = out.file()});
  return out.text();
}

/// What differs between two texts about a parameter, of which the lines of shards may and the statistics must agree to the digits printed.
std::string differing_texts(const std::string& found, const std::string& expected) {
  const auto rows = [](const std::string& text) { return text.substr(text.find('\n', text.find("  mean ")) + 1); };
  std::string wrong;
  if (rows(found) != rows(expected)) wrong += "rows differ; ";
  for (const auto* statistic : {"  mean ", "  std ", "  max_abs ", "  norm ", "  mean_row_norm "}) {
    const auto value = [&](const std::string& text) {
      const auto at = text.find(statistic);
      if (at == text.npos) return std::numeric_limits<double>::infinity();
      return std::strtod(text.c_str() + at + std::string_view(statistic).size(), nullptr);
    };
    const double a = value(found), b = value(expected);
    if (!(std::isnan(a) && std::isnan(b)) && !(std::abs(a - b) <= 2e-5 * std::abs(b) + 1e-12))
      wrong += concat(statistic, a, ", not ", b, "; ");
  }
  return wrong;
}

/// What a topology's numbers differ in from those of one process; empty when nothing does. `declare` gives the model, the same each time.
template <class Topology, class Declare>
std::string check_logging(Topology& topology, const ShardingOptions& placement, const Declare& declare) {
  const ShardingPolicy<Local> here(ShardingOptions{.seed = placement.seed});
  const ShardingPolicy<Topology> there(topology, placement);
  auto local = here.apply(declare());
  auto placed = there.apply(declare());
  constexpr double allowed = 1e-11;
  std::string wrong;
  const auto compare = [&](std::string_view name, double found, double expected) {
    if (!cases::close(found, expected, allowed) && !(std::abs(found - expected) <= 1e-14))
      wrong += concat(name, " is ", found, ", not ", expected, "; ");
  };

  const auto found = values_of(placed), expected = values_of(local);
  if (found.size() != expected.size()) return "other numbers of values";
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto &one = *(found.begin() + static_cast<std::ptrdiff_t>(i)), &other = *(expected.begin() + static_cast<std::ptrdiff_t>(i));
    if (one.name != other.name) wrong += concat(one.name, " where ", other.name, " should be; ");
    compare(one.name, one.value, other.value);
  }

  std::vector<std::string> keys;
  for (const auto& table : placed.tables()) keys.push_back(table.description.name + ".weight");
  const auto norms = log_ebc_norms(placed, keys), of_whole = log_ebc_norms(local, keys);
  std::size_t entries = 0;
  for (std::size_t t = 0; t < keys.size(); ++t) {
    const auto& whole = local.tables()[t].shards[0].local->storage.weight();
    compare(keys[t] + "-norm", norms.at(keys[t] + "-norm"), of_whole.at(keys[t] + "-norm"));
    ++entries;
    for (int rank = 0; rank < topology.world_size(); ++rank) {
      const auto key = concat(keys[t], "-norm-", rank);
      const double mine = norm_on(placed.tables()[t], whole, rank);
      if (norms.contains(key) == std::isnan(mine)) wrong += concat(key, " is there or missing wrongly; ");
      if (!norms.contains(key)) continue;
      compare(key, norms.at(key), mine);
      ++entries;
    }
    const auto text = content(placed, keys[t], placed.tables()[t].description.num_embeddings);
    if (topology.rank() > 0 && !text.empty()) wrong += concat(keys[t], " is printed by rank ", topology.rank(), "; ");
    if (topology.rank() == 0) {
      const auto differs = differing_texts(text, content(local, keys[t], placed.tables()[t].description.num_embeddings));
      if (!differs.empty()) wrong += concat(keys[t], ": ", differs);
    }
  }
  if (norms.size() != entries) wrong += concat(norms.size(), " norms, not ", entries, "; ");
  return wrong;
}

/// Random models of all collections and rules, under random plans.
template <class Topology> std::string check_trial(Topology& topology, const Trial& trial) {
  const auto wrong = check_logging(topology, trial.placement, [&] {
    cases::TrialModel declared{.bags = trial.bags,
                               .weighted = {trial.weighted, {.is_weighted = true}},
                               .sequences = cases::sequence_tables(trial.sequences),
                               .over = {5, {3, 1}, FinalActivation::none, trial.dtype},
                               .position = Parameter({8}, Uniform{1}, 0, trial.dtype)};
    return ModelAndLoss<cases::TrialModel, Bce, cases::TrialBatch>{std::move(declared), {}};
  });
  return wrong.empty() ? "" : concat(wrong, "seed ", trial.seed, " on ", topology.world_size(), " ranks\n");
}

/// Tables of one row to many, of every dtype, one of them frozen, all under one kind.
template <class Topology> std::string check_kind(Topology& topology, ShardingKind kind) {
  ShardingOptions placement{.seed = 11};
  for (const auto* name : {"one_row", "half", "brain", "frozen", "narrow"})
    placement.constraints[name] = {.kinds = {kind}, .min_partition = 4};
  const auto wrong = check_logging(topology, placement, [] {
    return cases::Tables{{.name = "one_row", .num_embeddings = 1, .embedding_dim = 8, .initial = Normal{}},
                         {.name = "half", .num_embeddings = 37, .embedding_dim = 40, .data_type = at::kHalf, .initial = Normal{}},
                         {.name = "brain", .num_embeddings = 5, .embedding_dim = 12, .data_type = at::kBFloat16, .initial = Normal{30}},
                         {.name = "frozen", .num_embeddings = 90, .embedding_dim = 6, .initial = Uniform{2}, .frozen = true},
                         {.name = "narrow", .num_embeddings = 3000, .embedding_dim = 1}};
  });
  return wrong.empty() ? "" : concat(wrong, to_string(kind), " on ", topology.world_size(), " ranks\n");
}
template <class Topology> std::string check_kinds(Topology& topology) {
  std::string wrong;
  for (std::size_t kind = 0; kind < sharding_kind_names.size(); ++kind) wrong += check_kind(topology, static_cast<ShardingKind>(kind));
  return wrong;
}

/// What all ranks of a run on threads say.
template <class Fn> std::string on_threads(int ranks, int local_world_size, Fn&& fn) {
  std::vector<std::string> wrong(static_cast<std::size_t>(ranks));
  Threads::run(ranks, [&](Threads topology) { wrong[static_cast<std::size_t>(topology.rank())] = fn(topology); },
               {.local_world_size = local_world_size});
  std::string all;
  for (const auto& one : wrong) all += one;
  return all;
}

[[maybe_unused]] const bool listed = cases::roles().emplace("logging", +[] {
  return cases::play([](Gloo& topology) {
    auto wrong = check_kinds(topology);
    for (std::uint64_t seed = 1; seed <= 8; ++seed) wrong += check_trial(topology, cases::draw_trial(seed, topology.world_size()));
    return wrong;
  }, 1);
}).second;

}  // namespace

TEST_SUITE("log/ranks") {
  TEST_CASE("law: every logger gives one process's numbers, on all ranks, for random models under random plans") {
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
      const auto trial = cases::draw_trial(seed);
      CHECK(on_threads(trial.ranks, trial.local_world_size, [&](Threads& topology) { return check_trial(topology, trial); }) == "");
    }
  }

  TEST_CASE("law: so it does under every kind, on one node and on nodes of two, for every dtype") {
    for (const int ranks : {1, 2, 3, 4}) CHECK(on_threads(ranks, ranks, [](Threads& topology) { return check_kinds(topology); }) == "");
    CHECK(on_threads(4, 2, [](Threads& topology) { return check_kinds(topology); }) == "");
  }

  TEST_CASE("law: so it does on processes over Gloo") {
    for (const int ranks : {2, 3}) {
      const auto ended = cases::run_processes("logging", ranks);
      CHECK_MESSAGE(ended.status == 0, ended.said);
    }
  }
}

}  // namespace rookery
