// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// One table split by rows, ids for it, and what the error of a step on two ranks says of a gradient that is not finite.

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/exchange_options.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "support/test.hpp"

namespace rookery::cases {

namespace one_table {

using Rules = rookery::Rules<Sgd>;
using Bags = EmbeddingBagCollection<Rules>;
using Sequences = EmbeddingCollection<Rules>;

constexpr std::int64_t rows = 100, dim = 8;

inline EmbeddingBagConfig<Rules> table(at::ScalarType dtype = at::kFloat) {
  return {.name = "t", .num_embeddings = rows, .embedding_dim = dim, .data_type = dtype, .initial = Normal{.5},
          .optimizer = Sgd{.learning_rate = 1}};
}
inline Plan by_rows(bool hierarchical = false) {
  return {.tables = {{.table = "t", .kind = ShardingKind::row_wise, .hierarchical = hierarchical}}};
}
/// Bags of `length` ids each, from `first` on, `step` apart.
inline KeyedJaggedTensor ids(std::int64_t bags, std::int64_t length, std::int64_t first, std::int64_t step) {
  std::vector<std::int64_t> values;
  for (std::int64_t i = 0; i < bags * length; ++i) values.push_back((first + i * step) % rows);
  return KeyedJaggedTensor::from_lengths({"t"}, at::tensor(values, at::kLong), at::full({bags}, length, at::kLong));
}

}  // namespace one_table

/// Takes steps whose gradient or values are beyond float16, or float64, on the two ranks of `on_two_ranks(fn)`, which calls `fn(topology)`.
template <class OnTwoRanks> void check_causes(OnTwoRanks&& on_two_ranks) {
  using namespace one_table;
  const auto run = [&](const ExchangeOptions& exchange, double initial, double scale, const char* sentence) {
    on_two_ranks([&](auto& topology) {
      auto declared = table();
      declared.initial = Constant{initial};
      const ShardingPolicy<std::remove_cvref_t<decltype(topology)>> sharding(topology, {.plan = by_rows(), .exchange = exchange});
      auto model = sharding.apply(Bags{declared});
      Optimizer step(model, Sgd{});
      const auto before = gather_table(model, "t");
      auto values = model(ids(8, 2, 3, 11)).values();                                        // [8, D]
      values.mul(values).sum().mul(topology.rank() == 1 ? scale : 0).backward();
      const auto whole = [&] {
        const bool updated = step();
        step.wait();
        return updated;
      };
      if (sentence) CHECK_THROWS_WITH_AS(whole(), sentence, NonFiniteError);
      else CHECK(whole());
      CHECK(at::equal(gather_table(model, "t"), before) == (sentence != nullptr));
    });
  };
  for (const auto pooled : {PooledExchange::partial_sums, PooledExchange::unique_rows}) {
    run({.backward_precision = CommType::fp16, .pooled = pooled}, 1, 1e6,
        "step 1: the gradient of 'embedding_bags.t.weight' is not finite because gradients are beyond the 65504 of fp16, as which they "
        "left ranks [1]; use CommType::bf16 for exchange.backward_precision; no weight was changed");
    run({.forward_precision = CommType::fp16, .pooled = pooled}, 1e5, 1,
        "step 1: the gradient of 'embedding_bags.t.weight' is not finite because values are beyond the 65504 of fp16, as which they "
        "came to ranks [0, 1]; use CommType::bf16 for exchange.forward_precision; no weight was changed");
    run({.forward_precision = CommType::bf16, .backward_precision = CommType::bf16, .pooled = pooled}, 1e5, 1e6, nullptr);
  }
  run({}, 1, 1e300, "step 1: the gradient of 'embedding_bags.t.weight' is not finite because of ranks [1]; no weight was changed");
}

}  // namespace rookery::cases
