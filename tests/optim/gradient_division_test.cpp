// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the gradient is divided by: the global mean, or what DDP and TorchRec do with it on and off, for tables of every kind of sharding
// and for dense parameters alike.

#include <rookery/optim/optimizer.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/modules/batch_norm.hpp>
#include <rookery/modules/linear.hpp>

#include "optim/driven.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

using Sums = Rules<Sgd>;

/// Two tables and a parameter that every row of the batch adds.
struct Published {
  EmbeddingBagCollection<Sums> tables;
  Parameter bias{{4}, Zeros{}, 0, at::kDouble};
  static constexpr auto members() { return rookery::members("tables", &Published::tables, "bias", &Published::bias); }
  struct Batch {
    KeyedJaggedTensor ids;
    std::int64_t size() const { return ids.stride(); }
  };
  struct Output {
    at::Tensor pooled, rows;                                 // [B, F * 4], [B, 4]
  };
  auto lookups(const Batch& b) const { return rookery::lookups(rookery::lookup<&Published::tables>(b.ids)); }
  Output forward(const Batch& b, const auto& pooled) {
    return {get<&Published::tables>(pooled).values(), bias.tensor().unsqueeze(0).expand({b.size(), 4})};
  }
};
struct SumOfOutputs {
  static constexpr bool divides = false;
  at::Tensor operator()(const Published::Output& output, const Published::Batch&) const {
    return output.pooled.sum().add(output.rows.sum());                                       // []
  }
};

/// Rows of `columns` equal numbers each.
at::Tensor rows_of(const std::vector<double>& values, std::int64_t columns = 4) {
  return numbers(values).unsqueeze(1).expand({static_cast<std::int64_t>(values.size()), columns}).contiguous();
}

struct Placement {
  ShardingKind kind;
  int local_world_size;
};
/// Every kind of sharding, on 2 ranks of one node and on 2 nodes.
template <class Fn> void on_every_kind(Fn&& fn) {
  for (std::size_t k = 0; k < sharding_kind_names.size(); ++k)
    for (const int local : {1, 2}) {
      const Placement placement{static_cast<ShardingKind>(k), local};
      CAPTURE(sharding_kind_names[k]);
      CAPTURE(local);
      fn(placement);
    }
}

/// What every rank finds after each forward pass and each step of the published example.
struct Found {
  std::vector<at::Tensor> pooled;                            // each pass, [3, 2]: a column of each feature
  std::vector<at::Tensor> first, second, bias;               // after each step
};
std::vector<Found> run_published(const Placement& placement, GradientDivision division) {
  std::vector<Found> found(2);
  Threads::run(2, [&](Threads topology) {
    Published declared{.tables = {{.name = "t0", .num_embeddings = 4, .embedding_dim = 4, .feature_names = {"feature_0"},
                                   .data_type = at::kDouble, .optimizer = Sgd{.learning_rate = 1}},
                                  {.name = "t1", .num_embeddings = 4, .embedding_dim = 4, .feature_names = {"feature_1"},
                                   .data_type = at::kDouble, .optimizer = Sgd{.learning_rate = 4}}}};
    auto model = maybe_shard_model(ModelAndLoss<Published, SumOfOutputs, Published::Batch>{std::move(declared), {}}, topology,
                                   {.constraints = {{"t0", {.kinds = {placement.kind}, .min_partition = 2}},
                                                    {"t1", {.kinds = {placement.kind}, .min_partition = 2}}}});
    const auto ids = at::tensor({0, 1, 2, 3}, at::kLong);
    model.table("t0").write(ids, rows_of({1, 2, 4, 8}));
    model.table("t1").write(ids, rows_of({101, 102, 104, 108}));
    Optimizer step(model, Sgd{.learning_rate = 1}, {.division = division});
    const auto batch = topology.rank() == 0
                           ? Published::Batch{KeyedJaggedTensor::from_lengths(
                                 {"feature_0", "feature_1"}, at::tensor({0, 1, 2, 0, 1, 2}, at::kLong),
                                 at::tensor({2, 0, 1, 2, 0, 1}, at::kLong))}
                           : Published::Batch{KeyedJaggedTensor::from_lengths(
                                 {"feature_0", "feature_1"}, at::tensor({3, 2, 1, 2, 0, 1, 2, 3, 2, 3, 2}, at::kLong),
                                 at::tensor({2, 2, 4, 2, 0, 1}, at::kLong))};
    auto& mine = found[static_cast<std::size_t>(topology.rank())];
    for (int i = 0; i < 2; ++i) {
      const auto [loss, output] = model(batch);
      mine.pooled.push_back(output.pooled.detach().view({3, 2, 4}).select(2, 3).clone());
      loss.backward();
      step();
      mine.first.push_back(gather_table(model, "t0"));
      mine.second.push_back(gather_table(model, "t1"));
      mine.bias.push_back(model.model().bias.tensor().detach().clone());
    }
  }, {.local_world_size = placement.local_world_size});
  return found;
}
bool equal_numbers(const at::Tensor& found, const std::vector<double>& wanted) { return at::equal(found.reshape({-1}), numbers(wanted)); }

/// A norm over the batch under a layer, so that backward goes on in step(); each row has a weight in the loss.
struct Normed {
  Linear below{3, 2, at::kDouble};
  BatchNorm norm{2, {}, at::kDouble};
  Linear over{2, 1, at::kDouble};
  static constexpr auto members() { return rookery::members("below", &Normed::below, "norm", &Normed::norm, "over", &Normed::over); }
  struct Batch {
    at::Tensor dense, weights;                               // [B, 3], [B]
    std::int64_t size() const { return dense.size(0); }
  };
  struct Output {
    at::Tensor values;                                       // [B]
  };
  Output forward(const Batch& b) { return {over(norm(below(b.dense)).square()).squeeze(1)}; }
};
struct WeightedSquares {
  double divisor = 0;                                        // 0: the rows
  at::Tensor operator()(const Normed::Output& output, const Normed::Batch& b) const { return output.values.square().mul(b.weights).sum(); }
  at::Tensor normaliser(const Normed::Batch& b) const {
    return at::scalar_tensor(divisor > 0 ? divisor : static_cast<double>(b.size()), at::kDouble);
  }
};

}  // namespace

TEST_SUITE("optim/gradient_division") {
  TEST_CASE("A28 two ranks, gradients summed: every kind of sharding gives the published rows, and dense parameters are summed too") {
    on_every_kind([](const Placement& placement) {
      for (const auto division : {GradientDivision::sum, GradientDivision::global_mean}) {   // the loss divides by nothing: the same
        const auto found = run_published(placement, division);
        CHECK(equal_numbers(found[0].pooled[0], {3, 203, 0, 0, 4, 104}));
        CHECK(equal_numbers(found[1].pooled[0], {12, 212, 6, 0, 15, 104}));
        CHECK(equal_numbers(found[0].pooled[1], {-2, 195, 0, 0, 0, 92}));
        CHECK(equal_numbers(found[1].pooled[1], {6, 196, -1, 0, 4, 92}));
        for (const auto& rank : found) {
          CHECK(at::equal(rank.first[0], rows_of({-1, -1, 0, 6})));
          CHECK(at::equal(rank.second[0], rows_of({97, 98, 92, 104})));
          CHECK(at::equal(rank.first[1], rows_of({-3, -4, -4, 4})));
          CHECK(at::equal(rank.second[1], rows_of({93, 94, 80, 100})));
          CHECK(equal_numbers(rank.bias[0], {-6, -6, -6, -6}));
        }
      }
    });
  }

  TEST_CASE("A29 two ranks, gradients averaged: every kind of sharding gives the derived rows, and dense parameters are averaged too") {
    on_every_kind([](const Placement& placement) {
      const auto found = run_published(placement, GradientDivision::mean);
      CHECK(equal_numbers(found[0].pooled[1], {.5, 199, 0, 0, 2, 98}));
      CHECK(equal_numbers(found[1].pooled[1], {9, 204, 2.5, 0, 9.5, 98}));
      for (const auto& rank : found) {
        CHECK(at::equal(rank.first[0], rows_of({0, .5, 2, 7})));
        CHECK(at::equal(rank.second[0], rows_of({99, 100, 98, 106})));
        CHECK(equal_numbers(rank.bias[0], {-3, -3, -3, -3}));
      }
    });
  }

  TEST_CASE("A34 two ranks with rows of their own, gradients of .5: rows move by .25 averaged and by .5 summed, under every kind") {
    on_every_kind([](const Placement& placement) {
      for (const auto& [division, moved] : {std::pair{GradientDivision::mean, -.25}, std::pair{GradientDivision::sum, -.5}})
        Threads::run(2, [&, wanted = moved, how = division](Threads topology) {
          EmbeddingBagCollection<DrivenRules> tables{{.name = "t", .num_embeddings = 8, .embedding_dim = 4, .data_type = at::kDouble,
                                                      .initial = Zeros{}, .optimizer = Sgd{.learning_rate = 1}}};
          auto model = maybe_shard_model(std::move(tables), topology,
                                         {.constraints = {{"t", {.kinds = {placement.kind}, .min_partition = 2}}}});
          Optimizer step(model, Sgd{.learning_rate = 1}, {.division = how});
          const auto ids = topology.rank() == 0 ? at::tensor({0, 1}, at::kLong) : at::tensor({2, 3}, at::kLong);
          model(KeyedJaggedTensor::from_lengths({"t"}, ids, at::tensor({1, 1}, at::kLong))).values().mul(.5).sum().backward();
          step();
          CHECK(at::equal(gather_table(model, "t"), rows_of({wanted, wanted, wanted, wanted, 0, 0, 0, 0})));
        }, {.local_world_size = placement.local_world_size});
    });
  }

  TEST_CASE("uneven batches: the global mean weighs rows, mean and sum weigh passes, one without rows counts as zero") {
    struct Wanted {
      GradientDivision division;
      std::vector<double> a;
    };
    // Passes with (gradient, normaliser): rank 0 (1, 4), rank 1 (2, 1) in the other element, rank 2 (0, 0).
    for (const auto& [division, a] :
         {Wanted{GradientDivision::global_mean, {1. / 5, 2. / 5}}, Wanted{GradientDivision::mean, {1. / 12, 2. / 3}},
          Wanted{GradientDivision::sum, {1. / 4, 2}}})
      Threads::run(3, [&, how = division, wanted = a](Threads topology) {
        auto model = placed(driven(), topology);
        Optimizer step(model, Sgd{.learning_rate = 1}, {.division = how});
        const std::vector<Push> pushes{{.a = numbers({1, 0}), .ids = {0}, .rows = numbers({1, 0}).view({1, 2}), .divisor = 4},
                                       {.a = numbers({0, 2}), .ids = {0}, .rows = numbers({0, 2}).view({1, 2}), .divisor = 1},
                                       {.a = numbers({0, 0}), .divisor = 0}};
        model(pushes[static_cast<std::size_t>(topology.rank())]).loss.backward();
        step();
        CHECK(difference(model.model().a.tensor(), numbers(wanted).neg()) <= 1e-15);
        CHECK(difference(gather_table(model, "t")[0], numbers(wanted).neg()) <= 1e-15);
        CHECK(step.gradient_norm() == doctest::Approx(numbers(wanted).norm().item<double>() * std::sqrt(2.)));
      });
  }

  TEST_CASE("several passes: mean is over the passes of all ranks, sum over none") {
    for (const auto division : {GradientDivision::mean, GradientDivision::sum})
      on_every_topology([&](auto& topology) {
        auto model = placed(driven(), topology);
        Optimizer step(model, Sgd{.learning_rate = 1}, {.division = division});
        const double ranks = topology.world_size();
        model({.a = numbers({1, 0}), .divisor = 2}).loss.backward();
        model({.a = numbers({0, 8}), .divisor = 4}).loss.backward();
        step();
        const double share = division == GradientDivision::sum ? ranks : .5;
        CHECK(difference(model.model().a.tensor(), numbers({-.5 * share, -2 * share})) <= 1e-15);
      });
  }

  TEST_CASE("where backward goes on in step(), each rank's gradient is divided before it meets the others'") {
    const std::vector<std::int64_t> cuts{0, 2, 7};           // uneven rows of 2 ranks
    Draw draw(5);
    const auto dense = draw.tensor({7, 3});
    Local local;
    auto whole = maybe_shard_model(ModelAndLoss<Normed, WeightedSquares, Normed::Batch>{{}, {2}}, local);
    Optimizer step_whole(whole, Sgd{.learning_rate = .1});
    whole({dense, numbers({1. / 2, 1. / 2, 1. / 5, 1. / 5, 1. / 5, 1. / 5, 1. / 5})}).loss.backward();
    step_whole();
    Threads::run(2, [&](Threads topology) {
      auto model = maybe_shard_model(ModelAndLoss<Normed, WeightedSquares, Normed::Batch>{{}, {}}, topology);
      Optimizer step(model, Sgd{.learning_rate = .1}, {.division = GradientDivision::mean});
      const auto begin = cuts[static_cast<std::size_t>(topology.rank())], end = cuts[static_cast<std::size_t>(topology.rank()) + 1];
      model({dense.narrow(0, begin, end - begin), at::ones({end - begin}, at::kDouble)}).loss.backward();
      step();
      for (const auto& [found, wanted] : {std::pair{&model.model().below.weight, &whole.model().below.weight},
                                         std::pair{&model.model().over.weight, &whole.model().over.weight}})
        CHECK(difference(found->tensor(), wanted->tensor()) <= tolerance(at::kDouble));
    });
  }

  TEST_CASE("a rank's negative normaliser is no divisor, and ranks and optimizers of a model agree about the division") {
    Threads::run(2, [](Threads topology) {
      auto model = placed(driven(), topology);
      Optimizer step(model, Sgd{.learning_rate = 1}, {.division = GradientDivision::mean});
      model({.a = numbers({1, 1}), .divisor = topology.rank() == 0 ? -1. : 3.}).loss.backward();
      CHECK_THROWS_AS(step(), NonFiniteError);
      CHECK(equal_numbers(model.model().a.tensor().detach(), {0, 0}));
      const Optimizer other(model, Sgd{.learning_rate = 1});
      model({.a = numbers({1, 1})}).loss.backward();
      CHECK_THROWS_WITH_AS(step(), "Optimizer: another Optimizer of this model divides gradients otherwise", ConfigError);
    });
    CHECK_THROWS_AS(Threads::run(2, [](Threads topology) {
      auto model = placed(driven(), topology);
      Optimizer step(model, Sgd{}, {.division = topology.rank() == 0 ? GradientDivision::mean : GradientDivision::sum});
    }), ConfigError);
  }
}

}  // namespace rookery
