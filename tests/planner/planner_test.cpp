// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/planner/planner.hpp>

#include <rookery/embedding/managed_collision.hpp>
#include <rookery/planner/enumerate.hpp>
#include <rookery/planner/estimate.hpp>
#include <rookery/planner/propose.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using enum ShardingKind;
using cases::Draw;
using Ranks = std::vector<int>;

const std::vector<ShardingKind> all_kinds{data_parallel,  table_wise,        column_wise, row_wise,
                                          table_row_wise, table_column_wise, grid_shard};

TableDescription table(const std::string& name, std::int64_t rows, std::int64_t dim = 8) {
  return {.name = "embedding_bags." + name, .table = name, .num_embeddings = rows, .embedding_dim = dim, .rule = "sgd"};
}
/// Memory for tables alone.
PlannerOptions without_reservation(std::int64_t batch_size = 1) {
  PlannerOptions options{.batch_size = batch_size};
  options.reservation = StorageReservation::fixed_percentage(0);
  return options;
}
std::vector<PlanOption> options_of(const TableDescription& one, const TopologyFacts& facts, const ParameterConstraints& asked = {}) {
  return enumerate_options(one, 0, asked, load_of(one, asked, 512), facts, {});
}
std::string kinds_of(const std::vector<PlanOption>& options) {
  std::string kinds;
  for (const auto& option : options) kinds += concat(kinds.empty() ? "" : " ", to_string(option.kind));
  return kinds;
}
Ranks ranks_of(const TablePlan& planned) {
  Ranks ranks;
  for (const auto& shard : planned.shards) ranks.push_back(shard.rank);
  return ranks;
}

PlanOption on_one_rank(double seconds, std::int64_t bytes) {
  PlanOption option{.ranks = {}, .blocks = {{1, seconds, {{1, bytes}}}}};
  option.seconds = option.longest = seconds;
  option.bytes = option.largest = bytes;
  return option;
}

/// Tables, machine and constraints that need not go together, but mostly do.
struct Case {
  std::vector<TableDescription> tables;
  TopologyFacts facts;
  Constraints constraints;
  PlannerOptions options;
};

Case draw_case(std::uint64_t seed) {
  Draw draw(seed);
  Case one;
  const int local = static_cast<int>(draw.integer(1, 4));
  one.facts.world_size = local * static_cast<int>(draw.integer(1, 4));
  one.facts.local_world_size = local;
  one.facts.device = draw.chance(.5) ? c10::DeviceType::CPU : c10::DeviceType::CUDA;
  for (std::int64_t t = 0, n = draw.integer(1, 7); t < n; ++t) {
    auto next = table(concat("t", t), draw.integer(1, draw.chance(.2) ? 9 : 5000), draw.integer(1, draw.chance(.3) ? 512 : 64));
    next.data_type = draw.one_of<at::ScalarType>({at::kFloat, at::kFloat, at::kHalf, at::kBFloat16, at::kDouble});
    next.pooling = draw.one_of<PoolingType>({PoolingType::sum, PoolingType::mean, PoolingType::none});
    next.is_weighted = draw.chance(.2);
    next.frozen = draw.chance(.2);
    next.features = draw.integer(1, 3);
    next.state_numbers_per_row = next.frozen ? 0 : draw.one_of<std::int64_t>({0, 1, next.embedding_dim, 2 * next.embedding_dim});
    ParameterConstraints asked;
    for (const auto kind : all_kinds)
      if (draw.chance(.3)) asked.kinds.push_back(kind);
    if (asked.kinds == std::vector{data_parallel} && draw.chance(.8)) asked.kinds.clear();
    if (!next.frozen && draw.chance(.2)) {
      const auto buckets = draw.integer(1, 6);
      next.num_embeddings = buckets * draw.integer(2, 50);
      next.managed_collision = ManagedCollision{.buckets = buckets};
      if (asked.kinds == std::vector{data_parallel}) asked.kinds.clear();
    }
    if (draw.chance(.2))
      for (std::int64_t i = 0, count = draw.integer(1, 3); i < count; ++i)
        asked.ranks.push_back(static_cast<int>(draw.integer(0, one.facts.world_size - 1)));
    if (draw.chance(.3)) asked.min_partition = draw.integer(1, 32);
    if (draw.chance(.5)) asked.pooling_factors = {draw.real(0, 20)};
    if (draw.chance(.2)) asked.batch_sizes = {draw.integer(1, 64)};
    one.constraints[next.table] = asked;
    one.tables.push_back(std::move(next));
  }
  one.options.batch_size = draw.integer(1, 64);
  one.options.storage.pipeline = draw.one_of<TrainPipeline>({TrainPipeline::none, TrainPipeline::sparse_dist});
  one.options.reservation.fraction = draw.real(0, .3);
  one.options.memory_tolerance = draw.chance(.5) ? 0 : draw.real(0, .2);
  std::int64_t bytes = 0;
  for (const auto& next : one.tables) bytes += next.bytes();
  one.facts.host_memory = one.facts.device_memory =
      static_cast<std::int64_t>(draw.real(.8, 6) * static_cast<double>(bytes) / one.facts.world_size) + draw.integer(0, 1 << 20);
  return one;
}

bool same(const Plan& a, const Plan& b) {
  return std::equal(a.tables.begin(), a.tables.end(), b.tables.begin(), b.tables.end(), [](const TablePlan& one, const TablePlan& other) {
    return one.table == other.table && std::equal(one.shards.begin(), one.shards.end(), other.shards.begin(), other.shards.end(),
                                                  [](const Shard& s, const Shard& o) { return s.box == o.box && s.rank == o.rank; });
  });
}

std::string what(const auto& fn) {
  try {
    fn();
  } catch (const PlanError& error) { return error.what(); }
  return "no PlanError";
}

}  // namespace

TEST_SUITE("planner/enumerate") {
  TEST_CASE("kinds that are allowed, each once, and none that comes to the same as another") {
    const TopologyFacts node{.world_size = 4}, nodes{.world_size = 4, .local_world_size = 2};
    CHECK(kinds_of(options_of(table("t", 100, 256), node)) == "data_parallel table_wise column_wise row_wise");
    CHECK(kinds_of(options_of(table("t", 100, 256), nodes)) ==
          "data_parallel table_wise column_wise row_wise table_row_wise table_column_wise");
    CHECK(kinds_of(options_of(table("t", 100, 8), nodes)) == "data_parallel table_wise row_wise table_row_wise");
    CHECK(kinds_of(options_of(table("t", 100, 256), nodes, {.kinds = {grid_shard, row_wise, grid_shard}})) == "grid_shard row_wise");
    CHECK(kinds_of(options_of(table("t", 100, 8), nodes, {.kinds = {grid_shard, column_wise}})) == "grid_shard column_wise");
    CHECK(kinds_of(options_of(table("t", 100, 256), {})) == "table_wise");
    CHECK(kinds_of(options_of(table("t", 100, 256), node, {.ranks = {1}})) == "table_wise");
    CHECK(kinds_of(options_of(table("t", 1, 8), node)) == "data_parallel table_wise");
  }
  TEST_CASE("columns of a block, and the shards that options become") {
    const TopologyFacts facts{.world_size = 4, .local_world_size = 2};
    auto option = options_of(table("t", 6, 512), facts, {.kinds = {column_wise}}).front();
    CHECK(option.partition == 128);
    CHECK(option.blocks.size() == 4);
    option = options_of(table("t", 6, 16), facts, {.kinds = {grid_shard}, .min_partition = 5}).front();
    CHECK(option.partition == 8);
    const Ranks nodes{1, 0};
    const auto shards = shards_of(option, nodes.data(), table("t", 6, 16), facts);
    CHECK(ranks_of({"t", shards}) == Ranks{2, 3, 0, 1});
    CHECK(shards[1].box == ShardBox{3, 6, 0, 8});
    CHECK(shards[2].box == ShardBox{0, 3, 8, 16});
  }
  TEST_CASE("rows of managed collision are split between buckets, and are not copied") {
    auto one = table("t", 100);
    one.managed_collision = ManagedCollision{.buckets = 10};
    const auto options = options_of(one, {.world_size = 8});
    CHECK(kinds_of(options) == "table_wise row_wise");
    const auto& runs = options[1].blocks[0].runs;                // 20, 20 and six times 10 rows
    CHECK(runs.size() == 2);
    CHECK(runs[0].ranks == 2);
    CHECK(runs[1].ranks == 6);
    CHECK(runs[0].bytes - runs[1].bytes == one.bytes(10, 8));
    CHECK(what([&] { options_of(one, {.world_size = 8}, {.kinds = {data_parallel}}); }) ==
          "make_plan: table 'embedding_bags.t' has managed collision, whose ids need one place each, and may be [data_parallel] only");
  }
}

TEST_SUITE("planner/propose") {
  TEST_CASE("dynamic programming finds the least sum of seconds that memory allows") {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      Draw draw(seed);
      std::vector<std::vector<PlanOption>> space(static_cast<std::size_t>(draw.integer(1, 5)));
      for (auto& options : space)
        for (std::int64_t o = 0, n = draw.integer(1, 4); o < n; ++o) {
          const auto seconds = draw.real(0, 1);
          const auto bytes = draw.integer(1, 30);
          options.push_back(on_one_rank(seconds, bytes));
        }
      const TopologyFacts one_rank;
      const auto capacity = draw.integer(5, 90);
      PlanSearch all(space, one_rank, capacity), found(space, one_rank, capacity);
      propose_all(all, 10'000);
      propose_by_dynamic_programming(found, static_cast<std::size_t>(capacity), 1);
      CHECK(all.best().has_value() == found.best().has_value());
      if (all.best()) CHECK(found.best()->rating == doctest::Approx(all.best()->rating).epsilon(1e-12));
    }
  }
  TEST_CASE("greedy proposals start with the fastest and give up time for memory, the largest table first") {
    const std::vector<std::vector<PlanOption>> space{{on_one_rank(5, 1), on_one_rank(1, 9)}, {on_one_rank(1, 10), on_one_rank(2, 4)}};
    const TopologyFacts one_rank;
    const auto rating = [&](std::int64_t capacity, std::int64_t most) {
      PlanSearch search(space, one_rank, capacity);
      propose_greedily(search, false, most);
      return search.best() ? search.best()->rating : 0;
    };
    CHECK(rating(19, 1) == 2);
    CHECK(rating(18, 1) == 0);
    CHECK(rating(18, 2) == 3);                                   // the table of 10 bytes gave way
    CHECK(rating(12, 2) == 0);
    CHECK(rating(12, 3) == 7);
    CHECK(rating(4, 100) == 0);
  }
}

TEST_SUITE("planner/planner") {
  TEST_CASE("random tables on random machines: every plan is valid, fits, obeys, and is the same twice") {
    int planned = 0, refused = 0;
    for (std::uint64_t seed = 0; seed < 400; ++seed) {
      auto one = draw_case(seed);
      CAPTURE(seed);
      PlannerResult result;
      try {
        result = make_plan(one.tables, one.facts, one.constraints, one.options);
      } catch (const PlanError& error) {
        CHECK(std::string(error.what()).find(" not fit on ") != std::string::npos);
        ++refused;
        continue;
      }
      ++planned;
      CHECK_NOTHROW(validate(result.plan, one.tables, one.facts.world_size));
      CHECK(result.estimate.fits());
      const auto again = make_plan(one.tables, one.facts, one.constraints, one.options);
      CHECK(same(result.plan, again.plan));
      CHECK(result.report() == again.report());
      std::int64_t bytes = 0;
      for (std::size_t t = 0; t < one.tables.size(); ++t) {
        const auto& described = one.tables[t];
        const auto& asked = one.constraints[described.table];
        const auto& estimate = result.estimate.tables[t];
        if (!asked.kinds.empty()) CHECK(std::count(asked.kinds.begin(), asked.kinds.end(), estimate.kind) == 1);
        else CHECK(estimate.kind != grid_shard);
        const auto copies = estimate.kind == data_parallel ? one.facts.world_size : 1;
        const auto row = described.state_numbers_per_row % described.embedding_dim * (described.data_type == at::kDouble ? 8 : 4);
        std::int64_t column_blocks = 0;
        for (const auto& shard : result.plan.tables[t].shards) column_blocks += copies == 1 && shard.box.row_begin == 0;
        CHECK(estimate.table_bytes ==
              copies * described.bytes() + std::max<std::int64_t>(0, column_blocks - 1) * described.num_embeddings * row);
        bytes += estimate.table_bytes + estimate.lookup_bytes;
        if (!asked.ranks.empty() && (estimate.kind == table_wise || estimate.kind == column_wise || estimate.kind == row_wise))
          for (const auto& shard : result.plan.tables[t].shards)
            CHECK(std::count(asked.ranks.begin(), asked.ranks.end(), shard.rank) > 0);
      }
      for (const auto& rank : result.estimate.ranks) bytes -= rank.bytes();
      CHECK(bytes == 0);
    }
    CHECK(planned > 250);
    CHECK(refused > 10);
  }
  TEST_CASE("what placing adds up is what the plan costs") {
    int compared = 0;
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      auto one = draw_case(seed);
      CAPTURE(seed);
      one.facts.host_memory = one.facts.device_memory = std::int64_t{1} << 40;
      const auto loads = detail::loads_of(one.tables, one.constraints, one.options.batch_size);
      const auto space = detail::plan_space(one.tables, loads, one.facts, one.constraints, one.options, std::int64_t{1} << 40);
      PlanSearch search(space, one.facts, std::int64_t{1} << 40);
      Draw draw(seed);
      std::vector<std::size_t> choice;
      for (const auto& options : space)
        choice.push_back(static_cast<std::size_t>(draw.integer(0, static_cast<std::int64_t>(options.size()) - 1)));
      search.consider(choice);
      REQUIRE(search.best().has_value());
      Plan plan;
      const auto* places = search.best()->places.data();
      for (std::size_t t = 0; t < one.tables.size(); ++t) {
        const auto& option = space[t][choice[t]];
        plan.tables.push_back({one.tables[t].table, shards_of(option, places, one.tables[t], one.facts)});
        places += option.blocks.size();
      }
      validate(plan, one.tables, one.facts.world_size);
      const auto estimate = estimate_plan(plan, one.tables, one.facts, one.constraints, one.options);
      CHECK(estimate.rating() == doctest::Approx(search.best()->rating).epsilon(1e-12));
      for (std::size_t rank = 0; rank < estimate.ranks.size(); ++rank) {
        CHECK(estimate.ranks[rank].bytes() == search.best()->bytes[rank]);
        ++compared;
      }
    }
    CHECK(compared > 1000);
  }
  TEST_CASE("no plan is slower than whole tables alone, each proposer's alone, or with fewer kinds to choose from") {
    for (std::uint64_t seed = 0; seed < 150; ++seed) {
      auto one = draw_case(seed);
      CAPTURE(seed);
      one.facts.host_memory = one.facts.device_memory = std::int64_t{1} << 32;
      one.options.memory_tolerance = 0;
      auto whole = one.constraints;
      for (auto& [name, asked] : one.constraints) {
        asked.kinds = all_kinds;
        whole[name] = asked;
        whole[name].kinds = {table_wise};
      }
      const auto rating = [&](const Constraints& constraints, const PlannerOptions& options) {
        return make_plan(one.tables, one.facts, constraints, options).estimate.rating();
      };
      const double best = rating(one.constraints, one.options) * (1 - 1e-12);
      auto greedy = one.options;
      greedy.proposers = {Proposer::greedy_by_sum};
      CHECK(best <= rating(whole, greedy));
      for (const auto proposer : one.options.proposers) {
        auto alone = one.options;
        alone.proposers = {proposer};
        CHECK(best <= rating(one.constraints, alone));
      }
    }
  }
  TEST_CASE("a table that alone decides how long a step is is split, and the others are not") {
    std::vector<TableDescription> tables{table("hot", 10'000, 512)};
    Constraints constraints{{"hot", {.pooling_factors = {20}}}};
    for (int t = 0; t < 6; ++t) {
      tables.push_back(table(concat("cold", t), 10'000, 64));
      constraints[concat("cold", t)] = {.kinds = {table_wise, row_wise, column_wise}};
    }
    const TopologyFacts facts{.world_size = 4};
    PlannerOptions options;
    const auto best = make_plan(tables, facts, constraints, options);
    CHECK(best.estimate.tables[0].kind == column_wise);
    for (std::size_t t = 1; t < tables.size(); ++t) CHECK(best.estimate.tables[t].kind == table_wise);
    options.proposers = {Proposer::falling_limit};
    CHECK(make_plan(tables, facts, constraints, options).estimate.rating() == best.estimate.rating());
    options.proposers = {Proposer::dynamic_programming};
    CHECK(make_plan(tables, facts, constraints, options).estimate.rating() > 2 * best.estimate.rating());
    options.max_steps = 1;                                       // the first proposal alone
    CHECK_NOTHROW(make_plan(tables, facts, constraints, options));
  }
  TEST_CASE("memory may be made even for a little time") {
    const std::vector<TableDescription> tables{table("a", 10'000), table("b", 6'000), table("c", 5'000)};
    const TopologyFacts facts{.world_size = 2};
    Constraints whole;
    for (const auto* name : {"a", "b", "c"}) whole[name] = {.kinds = {table_wise}};
    auto options = without_reservation(8);
    options.proposers = {Proposer::greedy_by_sum};
    const auto largest = [&] {
      const auto planned = make_plan(tables, facts, whole, options);
      return std::max(planned.estimate.ranks[0].table_bytes, planned.estimate.ranks[1].table_bytes);
    };
    CHECK(largest() == 15'000 * 32);                             // a and c: one rank has two tables anyway
    options.memory_tolerance = .01;
    CHECK(largest() == 11'000 * 32);
  }
  TEST_CASE("the memory that is named would be enough under the reservation that there is by default, too") {
    const std::vector<TableDescription> tables{table("a", 400'000, 16), table("b", 400'000, 16), table("c", 400'000, 16)};
    TopologyFacts facts{.world_size = 1, .host_memory = 50 << 20};
    const auto advice = what([&] { make_plan(tables, facts); });
    const auto end = advice.find(" MiB a rank would be enough");
    REQUIRE(end != std::string::npos);
    facts.host_memory = std::stoll(advice.substr(advice.rfind(' ', end - 1))) << 20;
    CHECK(facts.host_memory > 50 << 20);
    CHECK_NOTHROW(make_plan(tables, facts));
  }
  TEST_CASE("a table of more bytes than can be counted is refused") {
    const std::vector<TableDescription> tables{table("a", std::int64_t{1} << 58, 64)};
    CHECK_THROWS_AS(make_plan(tables, {.world_size = 1024}), ConfigError);
    CHECK_THROWS_AS(place(tables, 4), ConfigError);
  }
  TEST_CASE("tables that do not fit: what is largest, and what would be enough, is true") {
    const std::vector<TableDescription> tables{table("a", 1000, 16), table("b", 3000, 16), table("c", 500, 16)};
    Constraints whole;
    for (const auto* name : {"a", "b", "c"}) whole[name] = {.kinds = {table_wise}};
    TopologyFacts facts{.world_size = 2, .host_memory = 150'000};
    const auto options = without_reservation();
    CHECK(what([&] { make_plan(tables, facts, whole, options); }) ==
          "make_plan: 3 tables of 281 KiB do not fit on 2 ranks of 146 KiB less 0 B reserved; the largest is 'embedding_bags.b' of 188 "
          "KiB, which may be [table_wise]; 188 KiB a rank would be enough; more ranks alone would not be enough");
    facts.host_memory = 188 * 1024;
    CHECK_NOTHROW(make_plan(tables, facts, whole, options));
    facts.host_memory = 100'000;
    whole["b"].kinds = {row_wise};
    CHECK(what([&] { make_plan(tables, facts, whole, options); }).ends_with("; 6 ranks would be enough"));
    facts.world_size = 5;
    CHECK_THROWS_AS(make_plan(tables, facts, whole, options), PlanError);
    facts.world_size = 6;
    CHECK_NOTHROW(make_plan(tables, facts, whole, options));
    facts.world_size = 1;
    facts.host_memory = 100;
    CHECK(what([&] { make_plan(std::vector{table("a", 10)}, facts, {}, options); }) ==
          "make_plan: 1 table of 320 B does not fit on 1 rank of 100 B less 0 B reserved; the largest is 'embedding_bags.a' of 320 B, "
          "which may be [table_wise]; 360 B a rank would be enough; more ranks alone would not be enough");
  }
  TEST_CASE("constraints and facts that mean nothing are refused") {
    const std::vector<TableDescription> tables{table("a", 10)};
    CHECK(what([&] { make_plan(tables, {}, {{"b", {}}}); }) == "constraints: no table 'b' in the model; there are [embedding_bags.a]");
    CHECK(what([&] { make_plan(tables, {}, {{"a", {.ranks = {1}}}}); }) == "constraints: 'a' asks for rank 1 of 1");
    CHECK(what([&] { make_plan(tables, {}, {{"a", {.min_partition = -4}}}); }) == "constraints: 'a' asks for shards of -4 columns");
    for (const std::int64_t rows : {0, -1}) {
      const auto sentence = concat("PlannerOptions: batch_size is ", rows, "; each rank has at least 1 row");
      CHECK(what([&] { make_plan(tables, {}, {}, {.batch_size = rows}); }) == sentence);
      CHECK(what([&] { estimate_plan(place(tables, 1), tables, {}, {}, {.batch_size = rows}); }) == sentence);
    }
    CHECK(what([&] { make_plan(tables, {}, {}, {.memory_bins = 0}); }) == "PlannerOptions: memory_bins is 0; there must be at least 1");
    CHECK(what([&] { make_plan(tables, {}, {}, {.memory_tolerance = -.5}); }) ==
          "PlannerOptions: memory_tolerance is -0.5; it must be a share of the time, 0 or more");
    CHECK_THROWS_AS(make_plan(tables, {.world_size = 3, .local_world_size = 2}), ConfigError);
    CHECK(make_plan({}, {.world_size = 3}).plan.tables.empty());
  }
  TEST_CASE("1,000 tables on 1,024 ranks, all kinds allowed") {
    std::vector<TableDescription> tables;
    Constraints constraints;
    Draw draw(7);
    for (int t = 0; t < 1000; ++t) {
      tables.push_back(table(concat("t", t), std::int64_t{1000} << draw.integer(0, 17), std::int64_t{64} << draw.integer(0, 3)));
      tables.back().state_numbers_per_row = 1;
      constraints[tables.back().table] = {.kinds = all_kinds, .pooling_factors = {draw.real(1, 20)}};
    }
    const TopologyFacts facts{.world_size = 1024, .local_world_size = 8, .device = c10::DeviceType::CUDA};
    const auto result = make_plan(tables, facts, constraints);
    CHECK_NOTHROW(validate(result.plan, tables, facts.world_size));
    CHECK(result.estimate.fits());
    auto greedy = PlannerOptions{};
    greedy.proposers = {Proposer::greedy_by_longest};
    CHECK(result.estimate.rating() <= make_plan(tables, facts, constraints, greedy).estimate.rating() * (1 + 1e-12));
    CHECK(same(result.plan, make_plan(tables, facts, constraints).plan));
  }
}

TEST_SUITE("planner/estimate") {
  TEST_CASE("kinds of plans made by hand, and their costs") {
    const std::vector<TableDescription> tables{table("a", 12, 8)};
    const TopologyFacts facts{.world_size = 4, .local_world_size = 2};
    const auto estimate = [&](std::vector<Shard> shards) {
      return estimate_plan({.tables = {{"a", std::move(shards)}}}, tables, facts, {}, without_reservation(512));
    };
    CHECK(estimate(table_wise_shards(12, 8, 3)).tables[0].kind == table_wise);
    CHECK(estimate(data_parallel_shards(12, 8, 4)).tables[0].kind == data_parallel);
    CHECK(estimate(row_wise_shards(12, 8, 4)).tables[0].kind == row_wise);
    CHECK(estimate(row_wise_shards(12, 8, 2)).tables[0].kind == table_row_wise);
    CHECK(estimate(column_wise_shards(12, 8, 4, {1, 2})).tables[0].kind == column_wise);
    CHECK(estimate(column_wise_shards(12, 8, 4, {1, 0})).tables[0].kind == table_column_wise);
    CHECK(estimate(grid_shards(12, 8, 4, 2, 2)).tables[0].kind == grid_shard);
    const auto whole = estimate(table_wise_shards(12, 8, 3));
    CHECK(whole.ranks[3].cost.total() == whole.rating());
    CHECK(whole.ranks[0].bytes() == 0);
    CHECK(whole.ranks[3].table_bytes == 12 * 8 * 4);
    CHECK(whole.ranks[3].lookup_bytes == 512 * 4 * (8 + 8 * 4));
    CHECK(whole.imbalance_of_seconds().normalized_kl == doctest::Approx(1));
    CHECK(estimate(row_wise_shards(12, 8, 4)).imbalance_of_bytes().total_distance < 1e-12);
    const Plan by_kind{.tables = {{.table = "a", .kind = row_wise}}};
    CHECK(estimate_plan(by_kind, tables, facts, {}, without_reservation(512)).report() == estimate(row_wise_shards(12, 8, 4)).report());
    CHECK(what([&] { estimate({{{0, 12, 0, 8}, 4}}); }) == "Plan: table 'embedding_bags.a' has a shard on rank 4 of 4");
  }
  TEST_CASE("the critical path is the slowest rank of each phase") {
    PlanEstimate estimate{.ranks = {{.cost = {1, 4, 3, 1}}, {.cost = {2, 2, 2, 2}}}, .tables = {}};
    CHECK(estimate.rating() == 9);
    CHECK(estimate.critical_path().total() == 2 + 4 + 3 + 2);
  }
  TEST_CASE("the report has tables, ranks, memory, imbalance and path") {
    const std::vector<TableDescription> tables{table("a", 1000, 8), table("b", 3000, 8)};
    auto options = without_reservation(512);
    options.reservation.fraction = .25;
    const TopologyFacts facts{.world_size = 2, .host_memory = 1 << 20};
    const auto result = make_plan(tables, facts, {{"b", {.kinds = {table_wise}}}, {"a", {.kinds = {row_wise}}}}, options);
    CHECK(result.report() ==
          "table                   kind  shards    tables  lookups        ms    forward   exchange  backward   exchange\n"
          "embedding_bags.a    row_wise       2  31.2 KiB   72 KiB  0.004488  0.0009724  5.086e-05  0.001945    0.00152\n"
          "embedding_bags.b  table_wise       1  93.8 KiB   40 KiB   0.01659   0.005498  5.086e-05     0.011  5.086e-05\n"
          "\n"
          "rank    tables  lookups  of memory        ms    forward   exchange  backward  exchange\n"
          "0      109 KiB   76 KiB      24.1%   0.02108    0.00647  0.0001017   0.01294  0.001571\n"
          "1     15.6 KiB   36 KiB      6.72%  0.004488  0.0009724  5.086e-05  0.001945   0.00152\n"
          "\n"
          "memory of a rank 1 MiB, of which 256 KiB reserved\n"
          "imbalance of time: total variation 0.3245, total distance 0.649, chi-squared 0.4212, KL of its largest 0.3298\n"
          "imbalance of memory: total variation 0.2822, total distance 0.5643, chi-squared 0.3185, KL of its largest 0.2438\n"
          "slowest rank 0.02108 ms; critical path 0.02108 ms: compute 0.01941, exchange 0.001672");
    CHECK(result.report(1).find("and 1 more that cost less") != std::string::npos);
    auto of_gpu = facts;
    learn(of_gpu, {.memory = 1 << 20, .bandwidth = 1e12});
    CHECK(make_plan(tables, of_gpu, {}, options).report().find("256 KiB reserved\nnot known of the GPU here, so TorchRec's constants:"
                                                               " exchange in a node\n") != std::string::npos);
  }
}

}  // namespace rookery
