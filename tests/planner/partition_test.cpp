// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/planner/partition.hpp>

#include <rookery/planner/imbalance.hpp>

#include <cmath>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using Numbers = std::vector<std::int64_t>;
using Place = PlanOption::Place;

/// An option of blocks that cost as much time each, on so many ranks of as many bytes.
PlanOption option(ShardingKind kind, Place place, double seconds, std::int64_t bytes, std::int64_t ranks = 1,
                  std::int64_t blocks = 1) {
  PlanOption one{.kind = kind, .place = place, .partition = 4, .ranks = {}, .blocks = {}};
  for (std::int64_t b = 0; b < blocks; ++b) one.blocks.push_back({.columns = 4, .seconds = seconds, .runs = {{ranks, bytes}}});
  one.seconds = seconds * static_cast<double>(ranks) * static_cast<double>(blocks);
  one.bytes = bytes * ranks * blocks;
  one.longest = seconds, one.largest = bytes;
  return one;
}
PlanOption whole(double seconds, std::int64_t bytes = 1) { return option(ShardingKind::table_wise, Place::rank, seconds, bytes); }

Partition placed(const std::vector<PlanOption>& options, const TopologyFacts& facts, std::int64_t capacity = 1000,
                 Balance balance = Balance::seconds) {
  std::vector<const PlanOption*> proposal;
  for (const auto& one : options) proposal.push_back(&one);
  return Partitioner(facts, capacity, balance).partition(proposal);
}
using Places = std::vector<int>;

}  // namespace

TEST_SUITE("planner/imbalance") {
  TEST_CASE("A51 measures of imbalance, and the search that halves") {
    const std::vector<double> one_has_all{0, 1}, nine_tenths{.1, .9}, even{7, 7, 7}, nothing{0, 0}, alone{3};
    CHECK(imbalance_of(one_has_all).total_variation == .5);
    CHECK(imbalance_of(one_has_all).total_distance == 1);
    CHECK(imbalance_of(one_has_all).chi_squared == 1);
    CHECK(imbalance_of(one_has_all).normalized_kl == 1);
    CHECK(imbalance_of(nine_tenths).kl_divergence == doctest::Approx(.368).epsilon(1e-3));
    CHECK(imbalance_of(nine_tenths).kl_divergence == doctest::Approx(.1 * std::log(.2) + .9 * std::log(1.8)).epsilon(1e-14));
    CHECK(imbalance_of(even).total_distance == 0);
    CHECK(imbalance_of(nothing).kl_divergence == 0);
    CHECK(imbalance_of(alone).normalized_kl == 0);
    BinarySearch search{0, 100};
    Numbers probes;
    for (; !search.done(); search.tell(search.probe() < 90)) probes.push_back(search.probe());
    CHECK(probes == Numbers{50, 75, 88, 94, 91, 89, 90});
    CHECK(search.high == 89);                                    // the largest that succeeds
  }
}

TEST_SUITE("planner/partition") {
  TEST_CASE("A57 the greedy partitioner") {
    const TopologyFacts two{.world_size = 2};
    CHECK(placed({whole(100), whole(100), whole(100), whole(100)}, two).places == Places{0, 1, 0, 1});
    const auto found = placed({whole(300), whole(100), whole(100), whole(100)}, two);
    CHECK(found.places == Places{0, 1, 1, 1});
    CHECK(found.rating == 300);
    const auto rows = placed({option(ShardingKind::row_wise, Place::all, 5, 3, 2), whole(2)}, two);
    CHECK(rows.places == Places{-1, 0});
    CHECK(rows.seconds == std::vector<double>{7, 5});
    CHECK(rows.bytes == Numbers{4, 3});
    const auto in_node = option(ShardingKind::table_row_wise, Place::node, 5, 3, 8);
    const auto nodes = placed({in_node, in_node, in_node, in_node}, {.world_size = 16, .local_world_size = 8});
    CHECK(nodes.places == Places{0, 1, 0, 1});
    CHECK(nodes.bytes == Numbers(16, 6));
  }
  TEST_CASE("ties go over nodes first; largest tables come first; where it does not fit the next best is taken") {
    const TopologyFacts four{.world_size = 4, .local_world_size = 2};
    CHECK(placed({whole(1), whole(1), whole(1), whole(1)}, four).places == Places{0, 2, 1, 3});
    CHECK(placed({whole(1, 1), whole(1, 5)}, four).places == Places{2, 0});
    const auto tight = placed({whole(9, 6), whole(1, 5), whole(1, 5), whole(1, 4)}, {.world_size = 2}, 10);
    CHECK(tight.places == Places{0, 1, 1, 0});                   // rank 1 is faster and full
    CHECK(tight.rating == 10);
    const auto full = placed({whole(9, 6), whole(1, 5), whole(1, 5), whole(1, 5)}, {.world_size = 2}, 10);
    CHECK(!full.fits);
    CHECK(full.stuck == 3);
    CHECK(placed({whole(1, 6), whole(9, 5), whole(1, 4)}, {.world_size = 2}, 100, Balance::bytes).places == Places{0, 1, 1});
  }
  TEST_CASE("columns of a table stay on one node, or take the ranks they are asked for") {
    const TopologyFacts facts{.world_size = 4, .local_world_size = 2};
    auto columns = option(ShardingKind::table_column_wise, Place::node, 2, 4, 1, 3);
    CHECK(placed({whole(9, 90), columns}, facts).places == Places{0, 2, 3, 2});
    std::vector<PlanOption> crowded;
    for (int rank = 0; rank < 4; ++rank) {
      crowded.push_back(whole(1, rank < 3 ? 9 : 5));
      crowded.back().ranks = {rank};
    }
    crowded.push_back(columns);
    const auto too_wide = placed(crowded, facts, 10);            // one of the columns would fit
    CHECK(!too_wide.fits);
    CHECK(too_wide.bytes == Numbers{9, 9, 9, 5});
    columns.ranks = {1};
    CHECK(placed({columns}, facts).places == Places{0, 1, 0});
    auto wide = option(ShardingKind::column_wise, Place::rank, 2, 4, 1, 3);
    CHECK(placed({wide}, facts).places == Places{0, 2, 1});
    wide.ranks = {3, 1};
    CHECK(placed({wide}, facts).places == Places{3, 1, 3});
    auto blocks = option(ShardingKind::grid_shard, Place::node, 2, 4, 2, 3);
    CHECK(placed({blocks}, facts).places == Places{0, 1, 0});
    blocks.ranks = {2};
    CHECK(placed({blocks}, facts).places == Places{1, 1, 1});
    auto rows = option(ShardingKind::row_wise, Place::all, 2, 4, 2);
    rows.ranks = {3, 0};
    CHECK(placed({rows}, facts).bytes == Numbers{4, 0, 0, 4});
    auto one = whole(1);
    one.ranks = {3, 1};
    CHECK(placed({one, one, one}, facts).places == Places{3, 1, 3});
  }
  TEST_CASE("loads are the sum of what was placed, and no rank is over its memory") {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      cases::Draw draw(seed);
      const int local = static_cast<int>(draw.integer(1, 3));
      const TopologyFacts facts{.world_size = local * static_cast<int>(draw.integer(1, 3)), .local_world_size = local};
      std::vector<PlanOption> options;
      for (std::int64_t t = 0, n = draw.integer(1, 9); t < n; ++t) {
        const double seconds = draw.real(0, 1);
        const auto bytes = draw.integer(1, 20), blocks = draw.integer(1, 4);
        switch (draw.integer(0, 4)) {
          case 0: options.push_back(whole(seconds, bytes)); break;
          case 1: options.push_back(option(ShardingKind::row_wise, Place::all, seconds, bytes, draw.integer(1, facts.world_size))); break;
          case 2: options.push_back(option(ShardingKind::table_column_wise, Place::node, seconds, bytes, 1, blocks)); break;
          case 3: options.push_back(option(ShardingKind::column_wise, Place::rank, seconds, bytes, 1, blocks)); break;
          default: options.push_back(option(ShardingKind::grid_shard, Place::node, seconds, bytes, local, blocks));
        }
      }
      const std::int64_t capacity = draw.integer(20, 90);
      const auto found = placed(options, facts, capacity, draw.chance(.5) ? Balance::bytes : Balance::seconds);
      Numbers bytes(static_cast<std::size_t>(facts.world_size));
      std::vector<double> seconds(bytes.size());
      if (!found.fits) continue;
      std::size_t place = 0;
      for (const auto& one : options)
        for (const auto& block : one.blocks) {
          const bool on_node = one.place == Place::node && one.kind != ShardingKind::table_column_wise;
          const int first = one.place == Place::all ? 0 : on_node ? found.places[place] * local : found.places[place];
          for (std::int64_t i = 0; i < block.runs.front().ranks; ++i) {
            bytes[static_cast<std::size_t>(first + i)] += block.runs.front().bytes;
            seconds[static_cast<std::size_t>(first + i)] += block.seconds;
          }
          ++place;
        }
      CHECK(found.bytes == bytes);
      double slowest = 0;
      for (std::size_t rank = 0; rank < bytes.size(); ++rank) {
        CHECK(bytes[rank] <= capacity);
        CHECK(found.seconds[rank] == doctest::Approx(seconds[rank]).epsilon(1e-12));
        slowest = std::max(slowest, seconds[rank]);
      }
      CHECK(found.rating == doctest::Approx(slowest).epsilon(1e-12));
    }
  }
}

}  // namespace rookery
