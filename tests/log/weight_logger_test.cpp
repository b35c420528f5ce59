// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/weight_logger.hpp>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/stack.h>
#include <c10/core/CPUAllocator.h>

#include <rookery/log/reducers.hpp>
#include <rookery/log/logged_matrices.hpp>
#include <rookery/log/reductions.hpp>

#include "log/cases.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

/// A rowwise reducer of a user's own, with a partial of two numbers and another merge than a sum.
struct RowNormRange {
  static constexpr std::string_view name = "row_norm_range";
  static constexpr auto input = ReducerInput::row_squares;
  static constexpr std::int64_t partial_size = 2;
  at::Tensor partial(const at::Tensor& squares) const { return at::stack({squares.max(), squares.min().neg()}); }
  at::Tensor merge(const at::Tensor& partials) const { return partials.amax(0); }
  double finish(std::span<const double> partial, std::int64_t) const { return std::sqrt(partial[0]) - std::sqrt(-partial[1]); }
};
/// One whose partial is not what it says.
struct WrongSize : L2Norm {
  static constexpr std::string_view name = "wrong_size";
  static constexpr std::int64_t partial_size = 2;
};

using Everything = std::vector<LogValues>;

template <class Topology> Everything log_everything(Topology& topology, const ShardingOptions& options, WeightLoggerOptions logger = {}) {
  auto placed = ShardingPolicy<Topology>(topology, options).apply(cases::model());
  const auto log = [&]<class R>(R) { return WeightLogger<R>(placed, logger)(placed); };
  return {log(L2Norm{}), log(L1Norm{}), log(Mean{}), log(MaxAbs{}), log(StandardDeviation{}), log(MeanRowNorm{}), log(RowNormRange{}),
          log(PerParameter<For<"*.bias", MaxAbs>, For<"layers.*", L2Norm>, For<"*", MeanRowNorm>>{})};
}

void check_equal(const LogValues& a, const LogValues& b) {
  REQUIRE(a.size() == b.size());
  for (auto one = a.begin(), other = b.begin(); one != a.end(); ++one, ++other) {
    CAPTURE(one->name);
    CHECK(one->name == other->name);
    if (std::isnan(one->value)) CHECK(std::isnan(other->value));
    else CHECK(one->value == doctest::Approx(other->value).epsilon(1e-13));
  }
}

/// A collection alone, F(6,4) and a column-split table of random numbers.
cases::Tables two_tables(std::int64_t rows = 1000) {
  cases::Tables tables{{.name = "f", .num_embeddings = 6, .embedding_dim = 4},
                       {.name = "random", .num_embeddings = rows, .embedding_dim = 16}};
  tables.assign("f", cases::fill(6, 4));
  return tables;
}

/// Counts the bytes that LibTorch's tensors hold, and their largest number. Tensors may outlive it.
class CountingAllocator final : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* inner) : inner_(inner) {}
  c10::DataPtr allocate(std::size_t bytes) override {
    auto* block = new Block{inner_->allocate(bytes), bytes, bytes_};
    const auto held = bytes_->held += bytes;
    for (auto peak = bytes_->peak.load(); held > peak && !bytes_->peak.compare_exchange_weak(peak, held);) {}
    return {block->data.get(), block, &Block::free, block->data.device()};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { inner_->copy_data(to, from, bytes); }
  std::size_t peak() const { return bytes_->peak; }

 private:
  struct Bytes {
    std::atomic<std::size_t> held = 0, peak = 0;
  };
  struct Block {
    c10::DataPtr data;
    std::size_t bytes;
    std::shared_ptr<Bytes> counted;
    static void free(void* self) {
      auto* block = static_cast<Block*>(self);
      block->counted->held -= block->bytes;
      delete block;
    }
  };
  c10::Allocator* inner_;
  std::shared_ptr<Bytes> bytes_ = std::make_shared<Bytes>();
};

template <class Fn> std::size_t peak_bytes(Fn&& fn) {
  auto* const inner = c10::GetCPUAllocator();
  CountingAllocator counting(inner);
  c10::SetCPUAllocator(&counting);
  fn();
  c10::SetCPUAllocator(inner);
  return counting.peak();
}

}  // namespace

TEST_SUITE("log/weight_logger") {
  TEST_CASE("4.3 parameter reducers under the key model/norm/<param>, on one process") {
    auto placed = ShardingPolicy<Local>{}.apply(cases::model());
    const auto values = WeightLogger<L2Norm>(placed)(placed);
    CHECK(values.at("model/norm/layers.0.weight") == doctest::Approx(1.1090536).epsilon(1e-7));
    std::vector<std::string> names;
    for (const auto& one : values) names.push_back(one.name);
    CHECK(names == std::vector<std::string>{"model/norm/single.embedding_bags.whole.weight", "model/norm/single.embedding_bags.rows.weight",
                                            "model/norm/single.embedding_bags.columns.weight", "model/norm/wide.embedding_bags.grid.weight",
                                            "model/norm/wide.embedding_bags.uneven.weight",
                                            "model/norm/wide.embedding_bags.together.weight", "model/norm/layers.0.weight",
                                            "model/norm/layers.0.bias", "model/norm/layers.1.weight", "model/norm/layers.1.bias",
                                            "model/norm/scale", "model/norm/none"});
    CHECK(std::isnan(values.at("model/norm/none")));
  }
  TEST_CASE("values are those of the whole tensor") {
    auto placed = ShardingPolicy<Local>{{.seed = 3}}.apply(cases::model());
    const auto& table = placed.tables()[2].shards[0].local->storage.weight();      // [100, 9]
    const std::string name = "/single.embedding_bags.columns.weight";
    const auto wide = table.to(at::kDouble);                                       // [100, 9]
    const auto value = [&]<class R>(R) { return WeightLogger<R>(placed)(placed).at(concat("model/", R::name, name)); };
    CHECK(value(L2Norm{}) == doctest::Approx(wide.norm().item<double>()).epsilon(1e-13));
    CHECK(value(StandardDeviation{}) == doctest::Approx(wide.std().item<double>()).epsilon(1e-13));
    CHECK(value(MeanRowNorm{}) == doctest::Approx(wide.norm(2, 1).mean().item<double>()).epsilon(1e-13));
    CHECK(value(RowNormRange{}) ==
          doctest::Approx((wide.norm(2, 1).max() - wide.norm(2, 1).min()).item<double>()).epsilon(1e-13));
    table.mul_(2);                                                                 // the logger sees weights as they are now
    CHECK(value(MaxAbs{}) == 2 * wide.abs().max().item<double>());
  }
  TEST_CASE("law: every reducer gives local's number under every plan") {
    Local local;
    const auto expected = log_everything(local, {.seed = 5});
    for (const int ranks : {2, 3, 4})
      for (const bool by_hand : {true, false})
        for (const std::int64_t rows_per_exchange : {1 << 20, 7}) {
          CAPTURE(ranks);
          CAPTURE(by_hand);
          CAPTURE(rows_per_exchange);
          std::vector<Everything> found(static_cast<std::size_t>(ranks));
          Threads::run(ranks, [&](Threads topology) {
            found[static_cast<std::size_t>(topology.rank())] = log_everything(
                topology, {.plan = by_hand ? cases::plan(ranks) : Plan{}, .seed = 5}, {.rows_per_exchange = rows_per_exchange});
          });
          for (const auto& on_rank : found)
            for (std::size_t i = 0; i < expected.size(); ++i) check_equal(on_rank[i], expected[i]);
        }
  }
  TEST_CASE("one all-reduce a log, however many parameters") {
    Threads::run(3, [](Threads threads) {
      cases::Counting topology(std::move(threads));
      auto placed = ShardingPolicy<cases::Counting>(topology, {.plan = cases::plan(3)}).apply(cases::model());
      WeightLogger<PerParameter<For<"*.bias", MaxAbs>, For<"*", MeanRowNorm>>> norms{placed};
      topology.taken();
      for (int log = 0; log < 3; ++log) {
        norms(placed);
        CHECK(topology.taken() == 1);
      }
      WeightLogger<PerParameter<>> nothing{placed};
      CHECK(nothing(placed).empty());
      CHECK(topology.taken() == 0);
    });
  }
  TEST_CASE("rows of column-split tables beyond the first chunk take an all-reduce each") {
    Threads::run(2, [](Threads threads) {
      cases::Counting topology(std::move(threads));
      const Plan plan{.tables = {{"f", table_wise_shards(6, 4, 1)}, {"random", {{{0, 1000, 0, 3}, 1}, {{0, 1000, 3, 16}, 0}}}}};
      auto placed = ShardingPolicy<cases::Counting>(topology, {.plan = plan}).apply(two_tables());
      topology.taken();
      for (const auto& [rows, rounds] : {std::pair{1000, 1}, std::pair{999, 2}, std::pair{100, 10}}) {
        WeightLogger<MeanRowNorm> norms(placed, {.rows_per_exchange = rows});
        norms(placed);
        CHECK(topology.taken() == rounds);
        WeightLogger<L2Norm> elementwise(placed, {.rows_per_exchange = rows});
        elementwise(placed);
        CHECK(topology.taken() == 1);
      }
    });
  }
  TEST_CASE("column-split tables of many chunks") {
    auto placed = ShardingPolicy<Local>{}.apply(two_tables(50'000));
    const auto expected = WeightLogger<MeanRowNorm>(placed)(placed);
    for (const std::int64_t rows_per_exchange : {1 << 20, 20'000})
      Threads::run(2, [&](Threads topology) {
        const Plan plan{.tables = {{"f", table_wise_shards(6, 4, 1)}, {"random", {{{0, 50'000, 0, 3}, 1}, {{0, 50'000, 3, 16}, 0}}}}};
        auto split = ShardingPolicy<Threads>(topology, {.plan = plan}).apply(two_tables(50'000));
        check_equal(WeightLogger<MeanRowNorm>(split, {.rows_per_exchange = rows_per_exchange})(split), expected);
      });
  }
  TEST_CASE("memory is that of a chunk, not of a table") {
    constexpr std::int64_t rows = 400'000;                                         // 25.6 MB a table
    cases::Tables tables{{.name = "large", .num_embeddings = rows, .embedding_dim = 16, .initial = Zeros{}}};
    auto placed = ShardingPolicy<Local>{}.apply(std::move(tables));
    WeightLogger<StandardDeviation> deviations{placed};
    WeightLogger<MeanRowNorm> norms{placed};
    const auto chunk = static_cast<std::size_t>(detail::chunk_numbers * at::get_num_threads()) * 8;
    CHECK(peak_bytes([&] { deviations(placed); }) < 2 * chunk + (1 << 20));
    CHECK(peak_bytes([&] { norms(placed); }) < 2 * chunk + (1 << 20));
  }
  TEST_CASE("tables longer, wider and smaller than a chunk, and views with a stride") {
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{5000, 17}, {2, 70'001}, {1, 1}, {3, 32'767}, {2, 32'768}}) {
      cases::Tables tables{{.name = "t", .num_embeddings = rows, .embedding_dim = columns, .data_type = at::kDouble, .initial = Normal{}}};
      auto placed = ShardingPolicy<Local>{}.apply(std::move(tables));
      const auto weight = placed.tables()[0].shards[0].local->storage.weight();    // [rows, columns]
      CAPTURE(columns);
      const auto value = [&]<class R>(R) { return WeightLogger<R>(placed)(placed).begin()->value; };
      CHECK(value(L2Norm{}) == doctest::Approx(weight.norm().item<double>()).epsilon(1e-13));
      CHECK(value(MeanRowNorm{}) == doctest::Approx(weight.norm(2, 1).mean().item<double>()).epsilon(1e-13));
      CHECK(value(MaxAbs{}) == weight.abs().max().item<double>());
    }
  }
  TEST_CASE("more chunks than are merged at a time") {
    constexpr auto rows = (detail::chunk_partials + 3) * 2;                        // two rows a chunk
    cases::Tables tables{{.name = "t", .num_embeddings = rows, .embedding_dim = detail::chunk_numbers / 2, .initial = Zeros{}}};
    auto placed = ShardingPolicy<Local>{}.apply(std::move(tables));
    const auto weight = placed.tables()[0].shards[0].local->storage.weight();      // [rows, columns]
    weight.select(0, 0).fill_(1);
    weight.select(0, rows - 1).fill_(-3);
    CHECK(WeightLogger<MaxAbs>(placed)(placed).begin()->value == 3);
    CHECK(WeightLogger<Mean>(placed)(placed).begin()->value == doctest::Approx(-2. / rows).epsilon(1e-13));
    CHECK(WeightLogger<L2Norm>(placed)(placed).begin()->value ==
          doctest::Approx(std::sqrt(10. * (detail::chunk_numbers / 2))).epsilon(1e-13));
  }
  TEST_CASE("the number of threads changes no bit") {
    auto placed = ShardingPolicy<Local>{{.seed = 9}}.apply(two_tables(100'000));
    const int threads = at::get_num_threads();
    std::vector<double> values;
    for (const int n : {1, 2, 3}) {
      at::set_num_threads(n);
      for (const auto& one : WeightLogger<StandardDeviation>(placed)(placed)) values.push_back(one.value);
      for (const auto& one : WeightLogger<MeanRowNorm>(placed)(placed)) values.push_back(one.value);
    }
    at::set_num_threads(threads);
    for (std::size_t i = 4; i < values.size(); ++i) CHECK(values[i] == values[i - 4]);
  }
  TEST_CASE("float32 tables do not overflow") {
    cases::Tables tables{{.name = "t", .num_embeddings = 2, .embedding_dim = 4, .initial = Zeros{}}};
    tables.assign("t", cases::fill(2, 4).fill_(1e30));
    auto placed = ShardingPolicy<Local>{}.apply(std::move(tables));
    CHECK(WeightLogger<MeanRowNorm>(placed)(placed).begin()->value == doctest::Approx(2e30).epsilon(1e-6));
  }
  TEST_CASE("the first pattern that matches counts; a parameter without pattern is left out, a pattern without one refused") {
    auto placed = ShardingPolicy<Local>{}.apply(cases::model());
    const WeightLogger<PerParameter<For<"*.bias", MaxAbs>, For<"layers.*", L2Norm>, For<"*.columns.weight", MeanRowNorm>>> norms{placed};
    CHECK(norms.keys() == std::vector<std::string>{"model/mean_row_norm/single.embedding_bags.columns.weight", "model/norm/layers.0.weight",
                                                   "model/max_abs/layers.0.bias", "model/norm/layers.1.weight",
                                                   "model/max_abs/layers.1.bias"});
    const WeightLogger<PerParameter<For<"*", L2Norm>, For<"*.bias", MaxAbs>>> shadowed{placed};
    CHECK(shadowed.keys().size() == 12);
    CHECK_THROWS_WITH_AS((WeightLogger<PerParameter<For<"*", L2Norm>, For<"layer.*", MaxAbs>>>(placed)),
                         "WeightLogger: pattern 'layer.*' matches no parameter; there are [single.embedding_bags.whole.weight, "
                         "single.embedding_bags.rows.weight, single.embedding_bags.columns.weight, wide.embedding_bags.grid.weight, "
                         "wide.embedding_bags.uneven.weight, wide.embedding_bags.together.weight, layers.0.weight, layers.0.bias] and 4 "
                         "more",
                         IndexError);
  }
  TEST_CASE("mistakes are one sentence") {
    auto placed = ShardingPolicy<Local>{}.apply(two_tables());
    auto other = ShardingPolicy<Local>{}.apply(two_tables());
    CHECK_THROWS_WITH_AS(
        (WeightLogger<PerParameter<For<"embedding_bags.g.weight", L2Norm>>>(placed)),
        "WeightLogger: pattern 'embedding_bags.g.weight' matches no parameter; there are [embedding_bags.f.weight, "
        "embedding_bags.random.weight]",
        IndexError);
    WeightLogger<L2Norm> norms{placed};
    CHECK_THROWS_WITH_AS(norms(other), "WeightLogger: called with another model than it was made for", Error);
    CHECK_THROWS_WITH_AS(WeightLogger<L2Norm>(placed, {.rows_per_exchange = 0}), "rows_per_exchange is 0; it must be positive",
                         ConfigError);
    WeightLogger<WrongSize> wrong{placed};
    CHECK_THROWS_WITH_AS(wrong(placed), "reducer 'wrong_size': a partial is Double [1]; it must be Double [2]", ShapeError);
  }

  TEST_CASE("a sample of a large table's rows is the same for every plan, stands for them, and is drawn from the seed") {
    constexpr std::int64_t rows = 20000;
    const auto norm = [](auto& topology, const Plan& plan, std::int64_t sample, std::uint64_t seed) {
      cases::Tables tables{{.name = "large", .num_embeddings = rows, .embedding_dim = 3},
                           {.name = "small", .num_embeddings = 9, .embedding_dim = 3}};
      const auto row = at::arange(rows, at::kDouble).unsqueeze(1).expand({rows, 3}).div(rows);   // norms even on [0, sqrt(3))
      tables.assign("large", row);
      auto placed = ShardingPolicy(topology, {.plan = plan}).apply(std::move(tables));
      WeightLogger<MeanRowNorm> logger{placed, {.sample_rows = sample, .sample_seed = seed}};
      CHECK(logger(placed).begin()->value == logger(placed).begin()->value);
      return logger(placed);
    };
    Local local;
    const auto all = norm(local, {}, 0, 0), some = norm(local, {}, 500, 0), others = norm(local, {}, 500, 1);
    CHECK(all.begin()->value == doctest::Approx(std::sqrt(3.) / 2).epsilon(1e-4));
    CHECK(some.begin()->value == doctest::Approx(all.begin()->value).epsilon(2e-3));
    CHECK(some.begin()->value != all.begin()->value);
    CHECK(some.begin()->value != others.begin()->value);
    CHECK((some.begin() + 1)->value == (all.begin() + 1)->value);          // small tables are read whole
    for (const auto& plan : {Plan{{{"large", row_wise_shards(rows, 3, 2)}, {"small", table_wise_shards(9, 3, 1)}}},
                             Plan{{{"large", {{{0, rows, 0, 1}, 1}, {{0, rows, 1, 3}, 0}}}, {"small", table_wise_shards(9, 3, 1)}}}})
      Threads::run(2, [&](Threads topology) { check_equal(norm(topology, plan, 500, 0), some); });
    CHECK_THROWS_WITH_AS(norm(local, {}, -1, 0), "sample_rows is -1; it must not be negative", ConfigError);
  }
}

}  // namespace rookery
