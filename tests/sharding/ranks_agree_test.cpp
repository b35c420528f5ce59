// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Ranks that were started with different plans, tables, settings or versions are refused when the model is placed, on all ranks, with one
// line that has both.

#include <rookery/core/version.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/gloo.hpp>
#include <rookery/topology/threads.hpp>
#include <rookery/topology/with_topology.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "support/roles.hpp"
#include "support/run_processes.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using Set = Rules<Sgd>;
using Tables = EmbeddingBagCollection<Set>;

/// A topology whose rank 1 says that its library is another: what it sends is what such a library would.
template <class Base> struct Aged : Base {
  explicit Aged(Base base) : Base(std::move(base)) {}

  auto all_gather_v(at::Tensor mine) {
    if (this->rank() == 1 && mine.scalar_type() == at::kLong) mine = mine.add(1);            // [1] the hash of its text
    if (this->rank() == 1 && mine.scalar_type() == at::kByte) {
      std::string text(reinterpret_cast<const char*>(mine.template const_data_ptr<std::uint8_t>()), static_cast<std::size_t>(mine.numel()));
      const auto at = text.find(version);
      if (at != text.npos) text.replace(at, version.size(), "0.0.7");
      mine = detail::to_bytes(text);                                                         // [n]
    }
    return Base::all_gather_v(std::move(mine));
  }
};

/// How rank 1 differs, and the words that all ranks are to end with.
const std::map<std::string, std::string>& differences() {
  static const std::map<std::string, std::string> all{
      {"F9 shards", "ranks differ: rank 0 has '  embedding_bags.a  [6, 4] Float sgd  96 bytes  on rank 0' and rank 1 has "
                    "'  embedding_bags.a  [6, 4] Float sgd  96 bytes  on rank 1'"},
      {"F9 ranks", "ranks differ: rank 0 has '  embedding_bags.a  [6, 4] Float sgd  96 bytes  on rank 0' and rank 1 has "
                   "'  embedding_bags.a  [6, 4] Float sgd  96 bytes  on rank 0 rows 0-2, rank 1 rows 3-5'"},
      {"F9 no fit", "Plan: table 'embedding_bags.a' has 24 weights and its shards cover 20"},
      {"F10 size", "ranks differ: rank 0 has 'embedding_bags.a: [6, 4] Float sgd' and rank 1 has 'embedding_bags.a: [7, 4] Float sgd'"},
      {"F10 dtype", "ranks differ: rank 0 has 'embedding_bags.a: [6, 4] Float sgd' and rank 1 has 'embedding_bags.a: [6, 4] Half sgd'"},
      {"F10 order", "ranks differ: rank 0 has 'embedding_bags.a: [6, 4] Float sgd' and rank 1 has 'embedding_bags.b: [6, 4] Float sgd'"},
      {"F10 features", "ranks differ: rank 0 has 'embedding_bags.a: features [u, v] sum' and rank 1 has 'embedding_bags.a: features [v, u] "
                       "sum'"},
      {"F10 rule", "ranks differ: rank 0 has 'embedding_bags.a: sgd with learning_rate 0.1, weight_decay 0' and rank 1 has "
                   "'embedding_bags.a: sgd with learning_rate 0.2, weight_decay 0'"},
      {"F11 version", concat("ranks differ: rank 0 has 'rookery ", version, ", LibTorch ", TORCH_VERSION,
                             "' and rank 1 has 'rookery 0.0.7, LibTorch ", TORCH_VERSION, "'")},
      {"none", ""}};
  return all;
}

/// Places two tables on ranks of which one differs.
template <class Topology> void place_two(Topology& topology, const std::string& what) {
  std::vector<Tables::Config> configs{
      {.name = "a", .num_embeddings = 6, .embedding_dim = 4, .feature_names = {"u", "v"}, .optimizer = Sgd{.learning_rate = .1}},
      {.name = "b", .num_embeddings = 6, .embedding_dim = 4, .optimizer = Sgd{.learning_rate = .1}}};
  Plan plan{.tables = {{"a", table_wise_shards(6, 4, 0)}, {.table = "b", .kind = ShardingKind::row_wise}}};
  if (topology.rank() == 1) {
    if (what == "F9 shards") plan.tables[0].shards = table_wise_shards(6, 4, 1);
    if (what == "F9 ranks") plan.tables[0].shards = row_wise_shards({0, 6, 0, 4}, {0, 1});
    if (what == "F9 no fit") plan.tables[0].shards = {{{0, 5, 0, 4}, 0}};
    if (what == "F10 size") configs[0].num_embeddings = 7;
    if (what == "F10 dtype") configs[0].data_type = at::kHalf;
    if (what == "F10 order") std::swap(configs[0], configs[1]);
    if (what == "F10 features") std::swap(configs[0].feature_names[0], configs[0].feature_names[1]);
    if (what == "F10 rule") configs[0].optimizer = Sgd{.learning_rate = .2};
  }
  const auto placed = ShardingPolicy<Topology>(topology, {.plan = plan}).apply(Tables(configs));
  if (placed.plan().tables[1].shards.size() != static_cast<std::size_t>(topology.world_size())) fail<PlanError>("rows are not cut");
}
template <class Base> void place_on(Base topology, const std::string& what) {
  if (!what.starts_with("F11")) return place_two(topology, what);
  Aged<Base> aged(std::move(topology));
  place_two(aged, what);
}

int differing_rank() {
  try {
    return with_topology<Gloo>(Environment::read(), [](auto topology) {
      place_on(std::move(topology), std::getenv("ROOKERY_TEST_DIFFERENCE"));
      return 0;
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
[[maybe_unused]] const bool listed = cases::roles().emplace("differing_rank", &differing_rank).second;

}  // namespace

TEST_SUITE("sharding/ranks_agree") {
  TEST_CASE("F9 F10 F11 another plan, table, dtype, order, setting or version on one of three threads is refused with both") {
    for (const auto& [what, words] : differences()) {
      CAPTURE(what);
      std::string said;
      try {
        Threads::run(3, [&, &difference = what](Threads topology) { place_on(std::move(topology), difference); });
      } catch (const Error& error) {
        said = error.what();
      }
      CHECK_MESSAGE((words.empty() ? said.empty() : said.find(words) != said.npos), said);
      CHECK(said.find('\n') == said.npos);
    }
  }
  TEST_CASE("F9 F10 F11 the same of three processes over Gloo: every one of them ends with that line") {
    for (const auto* what : {"F9 shards", "F9 no fit", "F10 size", "F10 dtype", "F10 order", "F11 version", "none"}) {
      const auto& words = differences().at(what);
      CAPTURE(what);
      const auto ended = cases::run_processes("differing_rank", 3, concat("ROOKERY_TEST_DIFFERENCE='", what, "'"));
      const auto& said = ended.said;
      CHECK((ended.status == 0) == words.empty());
      CHECK(ended.seconds < 60);                                 // starting LibTorch on a busy machine included; deadlines are ten minutes
      int times = 0;
      for (auto at = words.empty() ? said.npos : said.find(words); at != said.npos; at = said.find(words, at + 1)) ++times;
      CHECK_MESSAGE(times == (words.empty() ? 0 : 3), said);
    }
  }
}

}  // namespace rookery
