// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// dense_state and load_dense_state: the optimizer state of dense parameters by name.
//
// A key is the parameter's full name and the slot's: "over.layers.0.weight.exp_avg", and ".step" for the number of its updates. Names are
// those of members, so two parts of a model never share one. Answers to torchrec/optim/keyed.py KeyedOptimizer and CombinedOptimizer.
// Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/optim/optimizer.hpp>

namespace rookery {

namespace detail {

/// Calls `fn(key, parameter, slot)` for each entry of the state; the slot after the last is the step count.
template <class Optimizer, class Fn> void for_each_dense_key(Optimizer& step, Fn&& fn) {
  for (auto& one : step.dense().parameters()) {
    const auto& slots = step.dense().rule().state;
    for (std::size_t slot = 0; slot < slots.size(); ++slot) fn(concat(one.name, ".", slots[slot].name), one, slot);
    fn(one.name + ".step", one, slots.size());
  }
}

}  // namespace detail

/// Copies of all state of dense parameters. It is the same on every rank.
///
/// Shapes:  that of the parameter for a slot; [] for a step count.
/// Dtypes:  that of the parameter; int64 for a step count.
template <class Model, class Rule> std::map<std::string, at::Tensor> dense_state(const Optimizer<Model, Rule>& step) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> state;
  detail::for_each_dense_key(step, [&](std::string key, const DenseParameter& one, std::size_t slot) {
    state.emplace(std::move(key), slot < one.state.size() ? one.state[slot].clone() : ops::scalar_tensor(one.steps, at::kLong));
  });
  return state;
}

/// Takes the state back, as `dense_state` gave it. Nothing is changed before everything fits.
///
/// Errors:  IndexError for a key that is missing or too many, ShapeError for another shape, DataError for a step count that is negative or
///          no whole number, each with the key.
/// Ranks:   all must be given the same; nothing is sent.
template <class Model, class Rule> void load_dense_state(Optimizer<Model, Rule>& step, const std::map<std::string, at::Tensor>& state) {
  const at::NoGradGuard no_grad;
  std::map<std::string_view, bool> used;
  detail::for_each_dense_key(step, [&](const std::string& key, const DenseParameter& one, std::size_t slot) {
    const auto found = state.find(key);
    check<IndexError>(found != state.end(), "load_dense_state: no entry '", key, "'");
    const auto wanted = slot < one.state.size() ? one.state[slot].sizes() : at::IntArrayRef{};
    check<ShapeError>(found->second.sizes() == wanted, "load_dense_state: entry '", key, "' has shape ", found->second.sizes(),
                      "; its place has ", wanted);
    const double steps = slot < one.state.size() ? 0 : found->second.template item<double>();
    check<DataError>(steps >= 0 && steps <= 0x1p53 && steps == std::floor(steps), "load_dense_state: entry '", key, "' is ", steps,
                     "; it must be a whole number of steps, not negative");
    used[found->first] = true;
  });
  for (const auto& [key, tensor] : state)
    check<IndexError>(used.contains(key), "load_dense_state: entry '", key, "' belongs to no parameter and slot");
  detail::for_each_dense_key(step, [&](const std::string& key, DenseParameter& one, std::size_t slot) {
    if (slot < one.state.size()) one.state[slot].copy_(state.at(key));
    else one.steps = state.at(key).template item<std::int64_t>();
  });
}

}  // namespace rookery
