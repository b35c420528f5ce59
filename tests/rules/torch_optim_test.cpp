// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Tables and dense parameters against what Python's torch.optim makes of the same numbers, for every rule that torch has.

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <rookery/checkpoint/read_tensors.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/loss/callable.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>

#include "data/files.hpp"
#include "embedding/one_collection.hpp"
#include "support/python.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

using TorchRules = Rules<Sgd, MomentumSgd, Adagrad, Adam, AdamW>;

/// A rule, what torch calls it, and the matrix that it trains: dense, or a table with a sparse gradient.
struct Case {
  RuleChoice<TorchRules> rule;
  nlohmann::json torch;
  bool is_dense() const { return torch["pooling"] == "none"; }
  at::ScalarType dtype() const { return torch["dtype"] == "float64" ? at::kDouble : at::kFloat; }
};

/// Rules and torch's optimizers with the same hyper-parameters: five of dense gradients, then three of sparse ones.
std::vector<std::pair<RuleChoice<TorchRules>, nlohmann::json>> draw_rules(Draw& draw) {
  const double rate = draw.real(.001, .2), decay = draw.chance(.3) ? 0 : draw.real(.001, .3), eps = std::pow(10, draw.real(-8, -2));
  const double beta1 = draw.real(.5, .95), beta2 = draw.real(.9, .999), start = draw.chance(.5) ? 0 : draw.real(.1, 1);
  const bool nesterov = draw.chance(.5);
  const std::vector<double> betas{beta1, beta2};
  constexpr double least = 1e-20;  // SparseAdam adds eps before it corrects the second moment
  const auto torch = [](const char* name, nlohmann::json arguments) {
    return nlohmann::json{{"optimizer", name}, {"arguments", std::move(arguments)}};
  };
  return {
      {Sgd{rate, decay}, torch("SGD", {{"lr", rate}, {"weight_decay", decay}})},
      {MomentumSgd{rate, beta1, nesterov, decay},
       torch("SGD", {{"lr", rate}, {"momentum", beta1}, {"nesterov", nesterov}, {"weight_decay", decay}})},
      {Adagrad{rate, eps, decay, start},
       torch("Adagrad", {{"lr", rate}, {"eps", eps}, {"weight_decay", decay}, {"initial_accumulator_value", start}})},
      {Adam{rate, beta1, beta2, eps, decay}, torch("Adam", {{"lr", rate}, {"betas", betas}, {"eps", eps}, {"weight_decay", decay}})},
      {AdamW{rate, beta1, beta2, eps, decay}, torch("AdamW", {{"lr", rate}, {"betas", betas}, {"eps", eps}, {"weight_decay", decay}})},
      {Sgd{rate}, torch("SGD", {{"lr", rate}})},
      {Adagrad{rate, eps, 0, start}, torch("Adagrad", {{"lr", rate}, {"eps", eps}, {"initial_accumulator_value", start}})},
      {Adam{rate, beta1, beta2, least}, torch("SparseAdam", {{"lr", rate}, {"betas", betas}, {"eps", least}})},
  };
}

std::vector<Case> draw_cases() {
  std::vector<Case> cases;
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    Draw draw(seed);
    auto rules = draw_rules(draw);
    for (std::size_t kind = 0; kind < rules.size(); ++kind) {
      auto& [rule, torch] = rules[kind];
      torch["dtype"] = seed % 2 == 0 ? "float64" : "float32";
      torch["rows"] = draw.integer(1, 20);
      torch["dim"] = draw.integer(seed % 2 == 0 ? 1 : 3, 40);  // a lone column's float32 sum may cancel to little but its error
      torch["bags"] = draw.integer(0, 12);
      torch["steps"] = draw.integer(1, 8);
      torch["pooling"] = kind < 5 ? "none" : draw.one_of<std::string>({"sum", "mean", "weighted"});
      cases.push_back({rule, torch});
    }
  }
  return cases;
}

/// One matrix whose gradient is what the batch says.
struct OneMatrix {
  Parameter matrix;
  static constexpr auto members() { return rookery::members("matrix", &OneMatrix::matrix); }
  struct Output {
    at::Tensor matrix;
  };
  template <class Batch> Output forward(const Batch&) { return {matrix.tensor()}; }
};
struct Gradient {
  at::Tensor values;
  std::int64_t size() const { return 1; }
};
struct Product {
  at::Tensor operator()(const OneMatrix::Output& output, const Gradient& batch) const {
    return output.matrix.mul(batch.values).sum();
  }  // []
};

using Tensors = std::map<std::string, at::Tensor>;
const std::map<std::string, std::string> names_in_torch{{"momentum1", "sum"}};

/// What torch wrote of a case, by step.
struct Torch {
  const Tensors& all;
  std::size_t number;
  at::Tensor operator()(std::int64_t step, const std::string& name) const { return all.at(concat(number, ".", step, ".", name)); }
  /// Weights or state after a step, under the rule's name of it.
  void check(std::int64_t step, const std::string& name, const at::Tensor& found, double allowed) const {
    const auto in_torch = names_in_torch.find(name);
    CAPTURE(step);
    CAPTURE(name);
    CHECK(difference(found, (*this)(step, in_torch == names_in_torch.end() ? name : in_torch->second)) <= allowed);
  }
};

double allowed_after(const Case& one, std::int64_t step) { return tolerance(one.dtype(), one.rule.name(), static_cast<int>(step)); }

void check_dense(const Case& one, const Torch& torch) {
  one.rule.visit([&]<class Rule>(const Rule& rule) {
    Local topology;
    OneMatrix declared{Parameter({one.torch["rows"], one.torch["dim"]}, Zeros{}, 0, one.dtype())};
    declared.matrix.assign(torch(0, "weight"));
    auto model = maybe_shard_model(ModelAndLoss<OneMatrix, SumLoss<Product>, Gradient>{std::move(declared), sum_loss(Product{})}, topology);
    Optimizer step(model, rule);
    while (step.count() < one.torch["steps"]) {
      model(Gradient{torch(step.count() + 1, "gradient")}).loss.backward();
      step();
      torch.check(step.count(), "weight", model.model().matrix.tensor(), allowed_after(one, step.count()));
      for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
        torch.check(step.count(), std::string(Rule::state[slot].name), step.dense().parameters()[0].state[slot],
                    allowed_after(one, step.count()));
    }
  });
}

void check_table(const Case& one, const Torch& torch, int ranks) {
  const std::int64_t rows = one.torch["rows"];
  const std::string pooling = one.torch["pooling"];
  EmbeddingBagCollection<TorchRules> tables(
      std::vector<EmbeddingBagConfig<TorchRules>>{{.name = "t",
                                                   .num_embeddings = rows,
                                                   .embedding_dim = one.torch["dim"],
                                                   .pooling = pooling == "mean" ? PoolingType::mean : PoolingType::sum,
                                                   .data_type = one.dtype(),
                                                   .optimizer = one.rule}},
      {.is_weighted = pooling == "weighted"});
  tables.assign("t", torch(0, "weight"));
  std::vector<PooledBatch> batches;
  for (std::int64_t step = 1; step <= one.torch["steps"]; ++step)
    batches.push_back({KeyedJaggedTensor::from_lengths({"t"}, one.is_dense() ? at::arange(rows, at::kLong) : torch(step, "ids"),
                                                       one.is_dense() ? at::ones({rows}, at::kLong) : torch(step, "lengths"),
                                                       pooling == "weighted" ? torch(step, "weights") : at::Tensor{}),
                       torch(step, "gradient")});
  const auto trained = train_tables(tables, batches, ranks).tables;
  for (std::size_t step = 1; step < trained.size(); ++step) {
    const auto& table = trained[step][0];
    const double allowed = allowed_after(one, static_cast<std::int64_t>(step));
    torch.check(static_cast<std::int64_t>(step), "weight", table.weight, allowed);
    for (std::size_t slot = 0; slot < table.slots.size(); ++slot)
      torch.check(static_cast<std::int64_t>(step), table.slots[slot], table.state[slot], allowed);
  }
}

}  // namespace

TEST_SUITE("rules/torch_optim") {
  TEST_CASE("SGD, momentum, Adagrad, Adam and AdamW equal Python's torch.optim, on tables and dense parameters, state included") {
    if (!has_python()) {
      MESSAGE("skipped: tests/setup found no Python side of torch");
      return;
    }
    const Folder folder;
    const auto cases = draw_cases();
    auto told = nlohmann::json::array();
    for (const auto& one : cases) told.push_back(one.torch);
    folder.write("cases.json", told.dump());
    run_python("rules/torch_optim.py", {folder.path("")});
    Tensors tensors;
    for (auto& one : read_tensors(folder.path("trained.safetensors"))) tensors[one.name] = one.tensor;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const Torch torch{tensors, i};
      CAPTURE(cases[i].torch.dump());
      if (cases[i].is_dense()) check_dense(cases[i], torch);
      for (const int ranks : {0, 2}) check_table(cases[i], torch, ranks);
    }
  }
}

}  // namespace rookery
