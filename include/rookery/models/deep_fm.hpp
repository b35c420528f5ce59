// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// DeepFm: a factorization machine, and an MLP over the same vectors.
//
// Guo et al. 2017, arXiv 1703.04247. Answers to torchrec/models/deepfm.py; differs: the first order is there, with tables of its own.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/models/factorization_machine.hpp>
#include <rookery/models/logits.hpp>
#include <rookery/modules/mlp.hpp>

namespace rookery {

/// A batch has `ids`, a KeyedJaggedTensor; its dense features are not used. The two collections see the same features.
///
/// Errors: ConfigError as FactorizationMachine, and for layers that do not end with one logit.
template <class Set> struct DeepFm {
  DeepFm() = default;
  DeepFm(std::vector<EmbeddingBagConfig<Set>> linear_configs, std::vector<EmbeddingBagConfig<Set>> factor_configs,
         const std::vector<std::int64_t>& deep_sizes, at::ScalarType dtype = at::kFloat)
      : machine(std::move(linear_configs), std::move(factor_configs), dtype) {
    check<ConfigError>(!deep_sizes.empty() && deep_sizes.back() == 1, "DeepFm: the deep layers must end with one logit");
    deep = Mlp(machine.factors.width(), deep_sizes, FinalActivation::none, dtype);
  }
  static constexpr auto members() { return rookery::members("machine", &DeepFm::machine, "deep", &DeepFm::deep); }

  auto lookups(const auto& batch) const {
    return rookery::lookups(rookery::lookup<&DeepFm::machine, &Machine::linear>(batch.ids),
                            rookery::lookup<&DeepFm::machine, &Machine::factors>(batch.ids));
  }

  Logits forward(const auto& batch, const auto& pooled) {
    const auto& linear = get<&DeepFm::machine, &Machine::linear>(pooled).values();           // [B, F]
    const auto& factors = get<&DeepFm::machine, &Machine::factors>(pooled).values();         // [B, F * D]
    return {machine.logits(batch, linear, factors).add(deep(factors).squeeze(1))};           // [B]
  }

  using Machine = FactorizationMachine<Set>;
  Machine machine;
  Mlp deep;
};

}  // namespace rookery
