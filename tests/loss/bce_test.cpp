// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/loss/bce.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/modules/linear.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/global_mean.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/sparse/batch.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

at::Tensor column(const std::vector<double>& values) { return at::tensor(values, at::kDouble).unsqueeze(1); }
double number(const at::Tensor& tensor) { return tensor.item<double>(); }
/// -(y log s(x) + (1 - y) log(1 - s(x)))
double entropy(double x, double y) { return std::log1p(std::exp(-x)) + (1 - y) * x; }

struct Output {
  at::Tensor logits;
};
struct Batch {
  at::Tensor x, labels, weights;                             // [B, 2], [B, 1], [B, 1]
  std::int64_t size() const { return x.size(0); }
  static constexpr auto members() { return rookery::members("x", &Batch::x, "labels", &Batch::labels, "weights", &Batch::weights); }
};
struct Unweighted {
  at::Tensor labels;
};
struct Layer {
  Linear linear{2, 1, at::kDouble};
  static constexpr auto members() { return rookery::members("linear", &Layer::linear); }
  Output forward(const Batch& batch) { return {linear(batch.x)}; }                           // [B, 1]
};

Batch reference_batch() { return {at::tensor({1., 2., 3., 4.}, at::kDouble).view({2, 2}), column({1, 0}), column({1, 2})}; }
ModelAndLoss<Layer, Bce, Batch> reference_model(DivideBy divide_by = DivideBy::rows) {
  Layer layer;
  layer.linear.weight.assign(at::tensor({.5, -.25}, at::kDouble).view({1, 2}));
  layer.linear.bias->assign(at::tensor({.1}, at::kDouble));
  return {std::move(layer), {divide_by}};
}

}  // namespace

TEST_SUITE("loss/bce") {
  TEST_CASE("4.2 ModelAndLoss: logits, loss, gradients") {
    const auto check_on = [](auto& topology, const Batch& batch) {
      auto model = maybe_shard_model(reference_model(), topology);
      Optimizer step(model, Sgd{.learning_rate = 1});
      const auto [loss, output] = model(batch);
      CHECK(std::abs(global_mean(model, loss, batch) - 1.3596864) < 1e-5);
      loss.backward();
      const auto& linear = model.model().linear;
      if constexpr (!std::remove_cvref_t<decltype(topology)>::is_distributed) {
        CHECK(std::abs(number(output.logits[0][0]) - .1) < 1e-5);
        CHECK(std::abs(number(output.logits[1][0]) - .6) < 1e-5);
        const auto dW = linear.weight.tensor().grad().div(2), db = linear.bias->tensor().grad().div(2);   // of the sum over two rows
        CHECK(std::abs(number(dW[0][0]) - 1.6994585) < 1e-5);
        CHECK(std::abs(number(dW[0][1]) - 2.1076043) < 1e-5);
        CHECK(std::abs(number(db[0]) - .4081459) < 1e-5);
      }
      step();
      CHECK(std::abs(number(linear.weight.tensor()[0][0]) - (.5 - 1.6994585)) < 1e-5);
      CHECK(std::abs(number(linear.weight.tensor()[0][1]) - (-.25 - 2.1076043)) < 1e-5);
      CHECK(std::abs(number(linear.bias->tensor()[0]) - (.1 - .4081459)) < 1e-5);
    };
    Local local;
    check_on(local, reference_batch());
    Threads::run(2, [&](Threads topology) { check_on(topology, slice(reference_batch(), topology.rank(), topology.rank() + 1)); });
    Threads::run(3, [&](Threads topology) {                    // all rows on the last rank
      check_on(topology, slice(reference_batch(), topology.rank() == 2 ? 0 : 2, 2));
    });
  }

  TEST_CASE("divided by the sum of weights on request") {
    Local topology;
    auto model = maybe_shard_model(reference_model(DivideBy::weights), topology);
    Optimizer step(model, Sgd{.learning_rate = 1});
    const auto batch = reference_batch();
    const auto [loss, output] = model(batch);
    CHECK(std::abs(number(loss) - 2 * 1.3596864) < 1e-5);
    CHECK(std::abs(global_mean(model, loss, batch) - 2 * 1.3596864 / 3) < 1e-5);
    loss.backward();
    step();
    CHECK(std::abs(number(model.model().linear.weight.tensor()[0][0]) - (.5 - 2 * 1.6994585 / 3)) < 1e-5);
  }

  TEST_CASE("the sum is that of the rows' entropies, weighted where there are weights") {
    const Output output{column({-2, 0, .5, 30})};
    const auto labels = column({0, 1, .25, 0});
    const double plain = entropy(-2, 0) + entropy(0, 1) + entropy(.5, .25) + entropy(30, 0);
    CHECK(std::abs(number(Bce{}(output, Unweighted{labels})) - plain) < 1e-12);
    CHECK(number(Bce{}.normaliser(Unweighted{labels})) == 4);
    CHECK(std::abs(number(Bce{}(output, Batch{{}, labels, {}})) - plain) < 1e-12);           // weights left undefined
    const Batch weighted{{}, labels, column({1, 0, 2, .5})};
    CHECK(std::abs(number(Bce{}(output, weighted)) - (entropy(-2, 0) + 2 * entropy(.5, .25) + .5 * entropy(30, 0))) < 1e-12);
    CHECK(number(Bce{}.normaliser(weighted)) == 4);
    CHECK(number(Bce{DivideBy::weights}.normaliser(weighted)) == 3.5);
  }

  TEST_CASE("labels and weights may be of another dtype than the logits") {
    const Output output{at::zeros({3})};
    CHECK(std::abs(number(Bce{}(output, Batch{{}, at::ones({3}, at::kLong), at::full({3}, 2, at::kDouble)})) - 6 * std::log(2)) < 1e-6);
  }

  TEST_CASE("no rows are a sum of zero over a divisor of zero") {
    const Batch batch{at::zeros({0, 2}), at::zeros({0, 1}), at::zeros({0, 1})};
    CHECK(number(Bce{}(Output{at::zeros({0, 1})}, batch)) == 0);
    CHECK(number(Bce{}.normaliser(batch)) == 0);
    CHECK(number(Bce{DivideBy::weights}.normaliser(batch)) == 0);
  }

  TEST_CASE("B8 a label outside [0, 1] is refused with its row; the bounds, integers, truth values and what lies between are labels") {
    const auto refused = [](const at::Tensor& labels, const char* start) {
      const auto sentence = concat(start, " is outside [0, 1]; a label is 0, 1 or a probability");
      CHECK_THROWS_WITH_AS(Bce{}(Output{at::zeros(labels.sizes())}, Unweighted{labels}), sentence.c_str(), DataError);
    };
    refused(at::tensor({0., 1., 4.5, 5.}, at::kDouble), "Bce: label 4.5 of row 2");
    refused(at::tensor({-1, 1}, at::kLong), "Bce: label -1 of row 0");
    refused(column({1, -.25}), "Bce: label -0.25 of row 1");
    refused(at::tensor({0., 1., std::numeric_limits<double>::quiet_NaN(), 7.}, at::kDouble), "Bce: label nan of row 2");
    refused(at::tensor({std::numeric_limits<double>::infinity()}, at::kDouble), "Bce: label inf of row 0");
    for (const auto& labels : {at::tensor({0., .25, 1.}, at::kDouble), at::tensor({0, 1, 1}, at::kLong), at::ones({3}, at::kBool)})
      CHECK(number(Bce{}(Output{at::zeros({3})}, Unweighted{labels})) > 0);
  }

  TEST_CASE("B8 a weight that is negative or not finite is refused with its row and value") {
    const auto labels = column({0, 1, 1, 0});
    const Output output{at::zeros({4, 1}, at::kDouble)};
    const auto refused = [&](double weight, std::string_view words) {
      const Batch batch{{}, labels, column({1, 0, weight, 2})};
      const auto sentence = concat("Bce: weight ", words, " of row 2 must be finite and not negative");
      CHECK_THROWS_WITH_AS(Bce{}(output, batch), sentence.c_str(), DataError);
      CHECK_THROWS_WITH_AS(Bce{DivideBy::weights}.normaliser(batch), sentence.c_str(), DataError);
    };
    refused(-1, "-1");
    refused(std::numeric_limits<double>::quiet_NaN(), "nan");
    refused(std::numeric_limits<double>::infinity(), "inf");
    CHECK(number(Bce{}(output, Batch{{}, labels, column({1, 0, -0., 2})})) > 0);
    CHECK_THROWS_AS(Bce{}(Output{at::zeros({4, 1})}, Batch{{}, labels, column({1, 0, 1e39, 2})}), DataError);   // float32 cannot hold it
  }

  TEST_CASE("a weight for each row holds for labels [B, 1] too") {
    const auto labels = column({0, 1, 1, 0}), weights = column({1, 0, 2, .5});
    const Output output{column({.5, 1, -1, 2})};
    CHECK(number(Bce{}(output, Batch{{}, labels, weights.squeeze(1)})) == number(Bce{}(output, Batch{{}, labels, weights})));
    CHECK(number(Bce{DivideBy::weights}.normaliser(Batch{{}, labels, weights.squeeze(1)})) == 3.5);
  }

  TEST_CASE("B8 a NaN or an infinity among dense features stops the step with nothing changed, or skips and counts it") {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
    const auto run = [](auto& topology) {
      const bool last = topology.rank() + 1 == topology.world_size();
      for (const auto policy : {NonFinite::error, NonFinite::skip}) {
        auto model = maybe_shard_model(reference_model(), topology);
        Optimizer step(model, Sgd{.learning_rate = 1}, {.non_finite = policy});
        const auto weight = model.model().linear.weight.tensor().detach().clone();
        std::int64_t bad = 0;
        for (const double wrong : {nan, infinity, -infinity}) {
          auto batch = reference_batch();
          if (last) batch.x[1][0] = wrong;
          model(batch).loss.backward();
          if (policy == NonFinite::error) CHECK_THROWS_AS(step(), NonFiniteError);
          else CHECK(!step());
          ++bad;
          CHECK(at::equal(model.model().linear.weight.tensor(), weight));
        }
        CHECK(step.skipped() == (policy == NonFinite::skip ? bad : 0));
        model(reference_batch()).loss.backward();
        CHECK(step());
        CHECK(!at::equal(model.model().linear.weight.tensor(), weight));
      }
    };
    Local local;
    run(local);
    Threads::run(2, [&](Threads topology) { run(topology); });
  }

  TEST_CASE("shapes that do not fit, and weights that are not there, are refused in one sentence") {
    CHECK_THROWS_WITH_AS(Bce{}(Output{at::zeros({3})}, Unweighted{at::zeros({2})}), "Bce: logits have shape [3] and labels [2]",
                         ShapeError);
    CHECK_THROWS_WITH_AS(Bce{}(Output{at::zeros({3, 1})}, Unweighted{at::zeros({3})}), "Bce: logits have shape [3, 1] and labels [3]",
                         ShapeError);
    const Batch wrong{{}, at::zeros({3}), at::zeros({2})};
    CHECK_THROWS_WITH_AS(Bce{}(Output{at::zeros({3})}, wrong), "Bce: labels have shape [3] and weights [2]", ShapeError);
    CHECK_THROWS_AS(Bce{DivideBy::weights}.normaliser(wrong), ShapeError);
    CHECK_THROWS_WITH_AS(Bce{DivideBy::weights}.normaliser(Unweighted{at::zeros({3})}),
                         "Bce: divide_by = weights, but the batch has no weights", ConfigError);
    CHECK_THROWS_AS((Bce{DivideBy::weights}.normaliser(Batch{{}, at::zeros({3}), {}})), ConfigError);
  }
}

}  // namespace rookery
