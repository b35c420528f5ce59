// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A model trained on the host and on the stand-in accelerator, and what came of it, side by side.

#include "support/fake_device.hpp"

#include <rookery/core/error.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery::cases {

/// All that training changes, by name, on the host.
template <class Model, class Step> std::map<std::string, at::Tensor> contents(Model& model, const Step& step) {
  std::map<std::string, at::Tensor> all;
  model.for_each_parameter([&](std::string_view name, Parameter& one) { all.emplace(name, seen_on_device(one.tensor()).clone()); });
  model.for_each_buffer([&](std::string_view name, Buffer& one) { all.emplace(name, seen_on_device(one.tensor()).clone()); });
  step.for_each_state([&](const OptimizerState& state) {
    all.emplace(concat(state.parameter, "/", state.slot), seen_on_device(state.tensor).clone());
  });
  for (const auto& table : model.tables())
    all.emplace(table.description.name + ".weight", seen_on_device(table.shards.front().local->storage.weight()).clone());
  return all;
}

/// The largest difference of anything, and which.
inline std::pair<double, std::string> apart(const std::map<std::string, at::Tensor>& one, const std::map<std::string, at::Tensor>& other) {
  std::pair<double, std::string> worst{one.size() == other.size() ? 0 : 1, "sizes"};
  for (const auto& [name, tensor] : one)
    if (const double gap = difference(tensor, other.at(name)); gap > worst.first) worst = {gap, name};
  return worst;
}

/// What a model is after steps of passes on a device; and how often the host waited for it in steps and in passes.
struct Trained {
  std::map<std::string, at::Tensor> contents;
  at::Tensor predictions;
  double norm = 0;
  std::int64_t waits = 0;
  std::vector<std::string> causes;
};
template <class Loss, class Batch, class Model, class Rule, class MakeBatch>
Trained trained_on(at::Device where, Model declared, Rule rule, OptimizerOptions options, MakeBatch&& make, int passes = 1) {
  Local topology(where);
  auto model = ShardingPolicy<Local>(topology, {.seed = 3}).apply(ModelAndLoss<Model, Loss, Batch>{std::move(declared), {}});
  Optimizer step(model, rule, std::move(options));
  Trained result;
  device_to_host(), device_waits();
  for (std::uint64_t i = 0; i < 10; ++i) {
    for (int pass = 0; pass < passes; ++pass) model(make(10 * i + static_cast<std::uint64_t>(pass))).loss.backward();
    step();
  }
  result.waits = device_to_host();
  result.causes = device_waits();
  result.norm = step.gradient_norm();
  result.predictions = seen_on_device(model.predict(make(77)).logits).clone();               // [B]
  CHECK(device_to_host() == 0);                              // prediction waits for nothing
  result.contents = contents(model, step);
  return result;
}

/// Trains on the host and on the device and compares. `model` makes a declaration, for a device if it asks for one. `waits`: whether each
/// step must know its numbers.
template <class Loss, class Batch, class Make, class Rule, class MakeBatch>
void compare(at::ScalarType dtype, std::string_view rule_name, Make&& model, Rule rule, const OptimizerOptions& options,
             MakeBatch&& make, int passes = 1, bool waits = false) {
  const auto train = [&](at::Device where) {
    if constexpr (std::is_invocable_v<Make&, at::Device>) return trained_on<Loss, Batch>(where, model(where), rule, options, make, passes);
    else return trained_on<Loss, Batch>(where, model(), rule, options, make, passes);
  };
  const auto host = train(at::kCPU), there = train(fake_device);
  const auto limit = tolerance(dtype, rule_name, 10);
  const auto [gap, name] = apart(host.contents, there.contents);
  INFO(name);
  CHECK(gap <= limit);
  CHECK(std::abs(host.norm - there.norm) <= limit * host.norm);
  CHECK(host.norm > 0);
  CHECK(difference(host.predictions, there.predictions) <= 10 * limit);
  INFO(concat(there.causes));
  CHECK(there.waits == (waits ? 10 : 0));                    // one in each step, or none
  CHECK(host.waits == 0);
}

}  // namespace rookery::cases
