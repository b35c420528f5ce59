// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/adapt/nn_module.hpp>

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/embedding/assign.hpp>
#include <rookery/log/reducers.hpp>
#include <rookery/log/weight_logger.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/sharding/shared_tensors.hpp>

#include "support/equivalence.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Batch {
  at::Tensor dense, labels;                                  // [B, 4], [B]
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() { return rookery::members("dense", &Batch::dense, "labels", &Batch::labels); }
};
struct Output {
  at::Tensor logits;                                         // [B]
};
template <class Over> struct Model {
  Over over;
  static constexpr auto members() { return rookery::members("over", &Model::over); }
  Output forward(const Batch& batch) { return {over(batch.dense).squeeze(1)}; }
};
using Sequential = NnModule<torch::nn::SequentialImpl>;

Sequential make_sequential() {
  torch::nn::Sequential layers(torch::nn::Linear(4, 5), torch::nn::ReLU(), torch::nn::Linear(5, 1));
  layers->to(torch::kDouble);
  return Sequential(layers);
}
Batch draw_batch(std::uint64_t seed) {
  Draw draw(seed);
  return {draw.tensor({9, 4}), draw.tensor({9}).gt(0).to(at::kDouble)};
}

/// Trains from given weights; what the parameters are then, in order, and what a logger says.
template <class Over, class Topology> Tensors train(Topology& topology, Over over) {
  Model<Over> declared{std::move(over)};
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> shapes;
  visit_leaves(declared, "", [&](std::string_view name, auto& leaf) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(leaf)>, Parameter>) shapes.emplace_back(name, leaf.shape());
  });
  REQUIRE(shapes.size() == 4);
  Draw draw(3);
  for (const auto& [name, shape] : shapes) {
    const auto values = draw.tensor(shape);
    if (topology.rank() == 0) assign(declared, name, values);  // the other ranks get them from rank 0
  }
  const ShardingPolicy<Topology> sharding(topology);
  auto model = sharding.apply(ModelAndLoss<Model<Over>, Bce, Batch>{std::move(declared), {}});
  WeightLogger<L2Norm> norms(model);
  Optimizer step(model, Adam{.learning_rate = .01, .eps = 1e-6}, {.clip_norm = .5});
  for (std::uint64_t i = 0; i < 5; ++i) {
    const auto whole = draw_batch(i);
    model(topology.world_size() == 1 ? whole : topology.rank() == 0 ? slice(whole, 0, 2) : slice(whole, 2, 9)).loss.backward();
    step();
  }
  Tensors found;
  model.for_each_parameter([&](std::string_view name, Parameter& one) { found.emplace_back(name, one.tensor().detach().clone()); });
  const auto logged = norms(model);
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(std::abs(logged.at("model/norm/" + found[i].first) - found[i].second.norm().template item<double>()) < 1e-12);
  found.emplace_back("predictions", model.predict(draw_batch(9)).logits);
  return found;
}

}  // namespace

TEST_SUITE("adapt/nn_module") {
  TEST_CASE("a torch::nn::Sequential trains as the Mlp with the same weights, on one rank and on two") {
    Local local;
    const auto expected = train(local, Mlp(4, {5, 1}, FinalActivation::none, at::kDouble));
    const auto compare = [&](const Tensors& found) {
      REQUIRE(found.size() == expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) CHECK(difference(found[i].second, expected[i].second) <= tolerance(at::kDouble));
    };
    const auto found = train(local, make_sequential());
    CHECK(found[0].first == "over.0.weight");
    CHECK(found[3].first == "over.2.bias");
    compare(found);
    Threads::run(2, [&](Threads topology) { compare(train(topology, make_sequential())); });
  }

  TEST_CASE("a process is told from another of the same number, and from what it forks") {
    const auto own = detail::process_identity();
    CHECK(own == detail::process_identity());
    CHECK(own != ::getpid());                                  // on another host the number may be the same
    const auto forked = ::fork();
    if (forked == 0) ::_exit(detail::process_identity() == own ? 1 : 0);
    int status = 1;
    ::waitpid(forked, &status, 0);
    CHECK(status == 0);
  }
  TEST_CASE("one module given to two ranks of a process is refused") {
    using Layer = NnModule<torch::nn::LinearImpl>;
    const torch::nn::Linear one(4, 1);
    const auto place = [](Threads& topology, const torch::nn::Linear& layer) {
      maybe_shard_model(ModelAndLoss<Model<Layer>, Bce, Batch>{{Layer(layer)}, {}}, topology);
    };
    CHECK_THROWS_WITH_AS(
        Threads::run(2, [&](Threads topology) { place(topology, one); }),
        doctest::Contains("ShardingPolicy: ranks 0 and 1 are given one tensor as 'over.weight'; make a torch::nn::Module for each rank"),
        ConfigError);
    CHECK_NOTHROW(Threads::run(2, [&](Threads topology) { place(topology, torch::nn::Linear(4, 1)); }));
  }

  TEST_CASE("the module itself computes with the trained tensors") {
    torch::nn::Linear layer(2, 1);
    const auto before = layer->weight.detach().clone();
    const ShardingPolicy<Local> here;
    auto model = here.apply(ModelAndLoss<Model<NnModule<torch::nn::LinearImpl>>, Bce, Batch>{
        {NnModule<torch::nn::LinearImpl>(layer)}, {}});
    Optimizer step(model, Adam{.learning_rate = .1});
    const auto placed = model.model().over.module()->weight;
    CHECK(at::equal(placed, before));                          // initial values are the module's own
    CHECK(placed.is_same(layer->weight));
    model({at::ones({2, 2}), at::zeros({2})}).loss.backward();
    step();
    CHECK(!at::equal(layer->weight, before));
  }

  TEST_CASE("buffers and frozen parameters are buffers of the model, and training mode is the model's") {
    torch::nn::Sequential layers(torch::nn::Linear(4, 3), torch::nn::BatchNorm1d(3), torch::nn::Dropout(.5), torch::nn::Linear(3, 1));
    layers[0]->as<torch::nn::Linear>()->weight.set_requires_grad(false);
    const auto weight = layers[0]->as<torch::nn::Linear>()->weight.detach().clone();
    Model<Sequential> declared{Sequential(layers)};
    std::vector<std::string> parameters, buffers;
    visit_leaves(declared, "", [&](std::string_view name, auto& leaf) {
      using Leaf = std::remove_cvref_t<decltype(leaf)>;
      if constexpr (std::is_same_v<Leaf, Parameter>) parameters.emplace_back(name);
      if constexpr (std::is_same_v<Leaf, Buffer>) buffers.emplace_back(name);
    });
    CHECK(parameters == std::vector<std::string>{"over.0.bias", "over.1.weight", "over.1.bias", "over.3.weight", "over.3.bias"});
    CHECK(buffers ==
          std::vector<std::string>{"over.0.weight", "over.1.running_mean", "over.1.running_var", "over.1.num_batches_tracked"});
    assign(declared, "over.1.running_mean", at::ones({3}));
    const ShardingPolicy<Local> here;
    auto model = here.apply(ModelAndLoss<Model<Sequential>, Bce, Batch>{std::move(declared), {}});
    const auto* norm = layers[1]->as<torch::nn::BatchNorm1d>();
    CHECK(at::equal(norm->running_mean, at::ones({3})));
    const auto whole = draw_batch(1);
    const Batch batch{whole.dense.to(at::kFloat), whole.labels};
    model.predict(batch);
    CHECK(!layers->is_training());
    CHECK(!norm->is_training());
    CHECK(at::equal(norm->running_mean, at::ones({3})));
    Optimizer step(model, Adam{.learning_rate = .1});
    model(batch).loss.backward();
    step();
    CHECK(layers->is_training());
    CHECK(!at::equal(norm->running_mean, at::ones({3})));
    CHECK(at::equal(layers[0]->as<torch::nn::Linear>()->weight, weight));
  }

  TEST_CASE("there is a module, and it is not copied") {
    static_assert(!std::is_copy_constructible_v<Sequential> && std::is_nothrow_move_constructible_v<Sequential>);
    CHECK_THROWS_WITH_AS(Sequential(std::shared_ptr<torch::nn::SequentialImpl>()), "NnModule: made of no module", ConfigError);
    CHECK_THROWS_WITH_AS(Sequential()(at::ones({1, 4})), "NnModule: called without a module", ConfigError);
  }
}

}  // namespace rookery
