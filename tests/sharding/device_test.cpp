// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/rookery.hpp>

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <rookery/adapt/nn_module.hpp>
#include <rookery/log/per_parameter.hpp>
#include <rookery/log/reducers.hpp>
#include <rookery/log/weight_logger.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/metrics/auc.hpp>
#include <rookery/modules/batch_norm.hpp>
#include <rookery/modules/cross_net.hpp>
#include <rookery/modules/dropout.hpp>
#include <rookery/modules/layer_norm.hpp>
#include <rookery/optim/dense_state.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/global_mean.hpp>
#include <rookery/train/evaluate.hpp>
#include <rookery/train/gather_predictions.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "sharding/device_cases.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

constexpr at::ScalarType real = at::kDouble;

struct Rows {
  at::Tensor dense, labels, weights;                         // [B, 3], [B], [B]
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() { return rookery::members("dense", &Rows::dense, "labels", &Rows::labels, "weights", &Rows::weights); }
};
struct Output {
  at::Tensor logits;                                         // [B]
};

/// Every dense module. No bias before statistics of the batch: its gradient is 0 but for rounding, which Adam would blow up.
struct Dense {
  explicit Dense(at::ScalarType dtype = real)
      : bottom(3, {8, 6}, {.activation = Activation::silu, .bias = false}, dtype), first(6, {}, dtype),
        second(6, {}, dtype), full(6, 2, dtype), low(6, 1, 2, dtype), vector(6, 1, dtype), dropout(.25),
        over(6, {5, 1}, {.activation = Activation::gelu}, dtype) {}
  static constexpr auto members() {
    return rookery::members("bottom", &Dense::bottom, "first", &Dense::first, "second", &Dense::second, "full", &Dense::full, "low",
                            &Dense::low, "vector", &Dense::vector, "dropout", &Dense::dropout, "over", &Dense::over);
  }
  Output forward(const auto& batch) const {
    const auto x = second(first(bottom(batch.dense)));                                       // [B, 6]
    return {over(dropout(vector(low(full(x))))).squeeze(1)};                                 // [B]
  }

  Mlp bottom;
  BatchNorm first;
  LayerNorm second;
  CrossNet full;
  LowRankCrossNet low;
  VectorCrossNet vector;
  Dropout dropout;
  Mlp over;
};

/// A torch::nn::Module with a frozen parameter and buffers, made on its device: LibTorch moves none to a stand-in.
struct Normed : torch::nn::Module {
  Normed(at::Device where, at::ScalarType dtype) {
    Draw draw(4);
    weight = register_parameter("weight", draw.tensor({6, 3}, dtype).to(where));
    scale = register_parameter("scale", draw.tensor({6}, dtype).to(where), /*requires_grad=*/false);
    mean = register_buffer("mean", at::zeros({6}, weight.options()));
    variance = register_buffer("variance", at::ones({6}, weight.options()));
  }
  at::Tensor forward(const at::Tensor& x) {                  // [B, 3] -> [B, 6]
    return at::batch_norm(x.matmul(weight.t()), scale, {}, mean, variance, is_training(), .1, 1e-5, false).tanh();
  }
  at::Tensor weight, scale, mean, variance;                  // [6, 3], [6] each
};
struct Plugged {
  NnModule<Normed> bottom;
  Mlp over;
  static constexpr auto members() { return rookery::members("bottom", &Plugged::bottom, "over", &Plugged::over); }
  Output forward(const Rows& batch) const { return {over(bottom(batch.dense)).squeeze(1)}; }   // [B]
};
Plugged plugged(const std::shared_ptr<Normed>& module) {
  return {NnModule<Normed>(module), Mlp(6, {5, 1}, {.activation = Activation::gelu}, module->weight.scalar_type())};
}

Rows rows_of(std::uint64_t seed, std::int64_t rows, at::ScalarType dtype = real) {
  Draw draw(seed);
  const auto dense = draw.tensor({rows, 3}, dtype);                                          // [B, 3]
  return {dense, dense.sum(1).gt(0).to(dtype), draw.tensor({rows}, dtype).abs().add(.1)};
}

/// A rule that is written for the host only.
struct HostSgd {
  double learning_rate = .01;
  static constexpr std::string_view name = "host_sgd";
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;
  template <class Number> void update(const Row<Number>& row, const StepContext& context, const double*) const {
    for (std::int64_t i = 0; i < row.dim; ++i) row.weight[i] -= static_cast<Number>(context.rate * learning_rate) * row.gradient[i];
  }
};

/// Bce over the sum of weights, which a device has.
struct WeightBce : Bce {
  WeightBce() : Bce{DivideBy::weights} {}
};

}  // namespace

TEST_SUITE("sharding/device") {
  const auto dense_batch = [](std::uint64_t seed) { return rows_of(seed, seed % 3 == 0 ? 5 : 16); };
  const auto dense_model = [] { return Dense(); };

  TEST_CASE("dense modules on a device train as on the host") {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const auto model = [&] { return Dense(dtype); };
      const auto batch = [&](std::uint64_t seed) { return rows_of(seed, seed % 3 == 0 ? 5 : 16, dtype); };
      compare<Bce, Rows>(dtype, "adam", model, Adam{.learning_rate = .01}, {}, batch);
    }
  }

  TEST_CASE("a torch::nn::Module on a device trains as on the host, and computes with what was trained") {
    for (const auto dtype : {at::kDouble, at::kFloat})
      compare<Bce, Rows>(dtype, "adam", [&](at::Device where) { return plugged(std::make_shared<Normed>(where, dtype)); },
                         Adam{.learning_rate = .01}, {.clip_norm = .5},
                         [&](std::uint64_t seed) { return rows_of(seed, seed % 3 == 0 ? 5 : 16, dtype); }, 2);
    const auto module = std::make_shared<Normed>(fake_device, real);
    const Normed before(at::kCPU, real);
    Local topology(fake_device);
    auto model = ShardingPolicy<Local>(topology).apply(ModelAndLoss<Plugged, Bce, Rows>{plugged(module), {}});
    Optimizer step(model, Adam{});
    model(dense_batch(1)).loss.backward();
    step();
    const auto found = contents(model, step);
    for (const auto& all : {module->named_parameters(), module->named_buffers()})
      for (const auto& one : all) CHECK(at::equal(found.at("bottom." + one.key()), seen_on_device(one.value())));
    CHECK(at::equal(found.at("bottom.scale"), before.scale));
    for (const auto& [name, values] : {std::pair("weight", before.weight), std::pair("mean", before.mean)})
      CHECK_FALSE(at::equal(found.at(concat("bottom.", name)), values));
  }

  TEST_CASE("clipping, groups, accumulation, divisions and frozen parameters on a device are those of the host") {
    compare<Bce, Rows>(real, "sgd", dense_model, Sgd{.learning_rate = .1}, {.clip_norm = .5}, dense_batch);
    compare<Bce, Rows>(real, "adamw", dense_model, AdamW{.learning_rate = .01},
                       {.clip_norm = 2, .clip_value = .1, .non_finite = NonFinite::skip,
                        .groups = {{.pattern = "over.*", .learning_rate_factor = .5}}},
                       dense_batch, 3, /*waits=*/true);
    for (const auto division : {GradientDivision::mean, GradientDivision::sum})
      compare<Bce, Rows>(real, "adagrad", dense_model, Adagrad{.learning_rate = .02}, {.division = division}, dense_batch, 2);
    const auto frozen = [] {
      Dense model;
      model.bottom.layers[1].weight.freeze();
      return model;
    };
    compare<WeightBce, Rows>(real, "momentum_sgd", frozen, MomentumSgd{.learning_rate = .01}, {}, dense_batch);
  }

  TEST_CASE("a gradient on a device that is not finite changes nothing and names the parameter") {
    Local topology(fake_device);
    for (const auto policy : {NonFinite::error, NonFinite::skip}) {
      auto model = ShardingPolicy<Local>(topology).apply(ModelAndLoss<Dense, Bce, Rows>{Dense(), {}});
      Optimizer step(model, Adam{}, {.non_finite = policy});
      model(dense_batch(1)).loss.backward();
      step();
      const auto before = contents(model, step);
      model(dense_batch(2)).loss.mul(std::numeric_limits<double>::infinity()).backward();
      if (policy == NonFinite::error) {                      // told when the numbers have come
        CHECK(step());
        CHECK(step.count() == 2);
        CHECK_THROWS_WITH_AS(step.wait(), doctest::Contains("step 2: the gradient of 'bottom.layers.0.weight' is not finite"),
                             NonFiniteError);
        CHECK(step.count() == 1);
        step.wait();
      } else {
        CHECK_FALSE(step());
        CHECK(step.skipped() == 1);
      }
      for (const auto& [name, tensor] : contents(model, step))
        if (!name.starts_with("first.running") && name != "dropout.calls") CHECK(at::equal(tensor, before.at(name)));
      CHECK(step.dense().parameters().front().steps == 1);
    }
  }

  TEST_CASE("a step on a device throws what the step before it found") {
    Local topology(fake_device);
    auto model = ShardingPolicy<Local>(topology).apply(ModelAndLoss<Dense, Bce, Rows>{Dense(), {}});
    Optimizer step(model, Adam{});
    model(dense_batch(1)).loss.mul(std::numeric_limits<double>::quiet_NaN()).backward();
    step();
    model(dense_batch(2)).loss.backward();
    CHECK_THROWS_WITH_AS(step(), doctest::Contains("step 1: the gradient of "), NonFiniteError);
    CHECK(step.count() == 0);
    model(dense_batch(2)).loss.backward();
    CHECK(step());
    CHECK(step.gradient_norm() > 0);
    step.wait();
    CHECK(step.count() == 1);
  }

  TEST_CASE("what a model on a device says is on the host: metrics, logs, predictions, state") {
    Local topology(fake_device), host;
    auto there = ShardingPolicy<Local>(topology, {.seed = 5}).apply(ModelAndLoss<Dense, Bce, Rows>{Dense(), {}});
    auto here = ShardingPolicy<Local>(host, {.seed = 5}).apply(ModelAndLoss<Dense, Bce, Rows>{Dense(), {}});
    const std::vector batches{dense_batch(1), dense_batch(2)};
    const auto auc = [&](auto& model) { return evaluate(model, batches, Auc{}).value(); };
    CHECK(auc(there) == doctest::Approx(auc(here)).epsilon(1e-12));
    CHECK(difference(gather_predictions(there, batches), gather_predictions(here, batches)) < 1e-12);
    const auto loss = there(batches[0]).loss;
    CHECK(loss.device() == fake_device);
    there.clear_passes();
    const auto mean = global_mean(there, loss, batches[0]);
    const at::NoGradGuard no_grad;
    CHECK(mean == doctest::Approx(loss.item<double>() / 16).epsilon(1e-12));

    using Norms = PerParameter<For<"*.bias", MaxAbs>, For<"over.*", StandardDeviation>, For<"*", MeanRowNorm>>;
    WeightLogger<Norms> norms(there), expected(here);
    device_to_host();
    const auto logged = norms(there);
    CHECK(device_to_host() == 1);
    const auto wanted = expected(here);
    for (const auto& [name, value] : wanted) {
      INFO(name);
      CHECK(logged.at(name) == doctest::Approx(value).epsilon(1e-12));
    }
  }

  TEST_CASE("state of dense parameters leaves a device and comes back") {
    Local topology(fake_device);
    const auto placed = [&] { return ModelAndLoss<Dense, Bce, Rows>{Dense(), {}}; };
    auto one = ShardingPolicy<Local>(topology).apply(placed());
    auto other = ShardingPolicy<Local>(topology).apply(placed());
    Optimizer first(one, Adam{}), second(other, Adam{});
    one(dense_batch(1)).loss.backward();
    first();
    load_dense_state(second, dense_state(first));
    CHECK(apart(contents(one, first), contents(one, first)).first == 0);
    const auto a = dense_state(first), b = dense_state(second);
    for (const auto& [key, tensor] : a) CHECK(at::equal(seen_on_device(tensor), seen_on_device(b.at(key))));
  }

  TEST_CASE("what cannot be on a device is refused in a sentence") {
    Local topology(fake_device);
    auto model = ShardingPolicy<Local>(topology).apply(ModelAndLoss<Dense, Bce, Rows>{Dense(), {}});
    CHECK_THROWS_WITH_AS((Optimizer(model, HostSgd{})), doctest::Contains("rule 'host_sgd' of dense parameters runs on the host only"),
                         ConfigError);
    auto shared = Parameter::sharing(at::ones({2}));
    CHECK_THROWS_WITH_AS(shared.place("over.weight", 0, fake_device), doctest::Contains("lies on cpu, but the model is placed on fake:0"),
                         ConfigError);
  }
}

}  // namespace rookery
