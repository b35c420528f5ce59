// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The loops that training lives on, one table each: lookups by width, dtype and weights, whole steps by rule and width. benchmark_kernels
// times them, benchmark_instructions counts their instructions.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>

namespace rookery::benchmarks {

/// A loop by name; `make` sets it up and gives what one turn calls.
struct HotLoop {
  std::string name;
  std::function<std::function<void()>()> make;
};

inline constexpr std::int64_t loop_rows = 20'000, loop_batch = 256, loop_pooling = 10;

/// A placed table and one batch for it.
class LoopTable {
 public:
  using Set = Rules<RowwiseAdagrad, Sgd, Adagrad, Adam>;

  LoopTable(std::int64_t dim, at::ScalarType dtype, bool is_weighted, RuleChoice<Set> rule)
      : model_(ShardingPolicy<Local>{}.apply(EmbeddingBagCollection<Set>(
            {{.name = "t", .num_embeddings = loop_rows, .embedding_dim = dim, .data_type = dtype, .optimizer = std::move(rule)}},
            {.is_weighted = is_weighted}))),
        gradient_(ops::full({loop_batch, dim}, 1e-3, at::kFloat)) {                          // [B, D]
    auto ids = ops::empty({loop_batch * loop_pooling}, at::kLong);                           // [N]
    for (std::int64_t i = 0; i < ids.numel(); ++i)
      ids.mutable_data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(i)) % loop_rows);
    auto weights = is_weighted ? ops::full({ids.numel()}, .5, at::kFloat) : at::Tensor{};    // [N]
    batch_ = KeyedJaggedTensor::from_lengths({"t"}, std::move(ids), ops::full({loop_batch}, loop_pooling, at::kLong), std::move(weights));
  }
  void look_up() {
    const at::NoGradGuard no_grad;
    model_(batch_);
  }
  void step() {
    auto pooled = model_(batch_).values();                                                   // [B, D]
    pooled.mutable_grad() = gradient_;
    step_();
  }

 private:
  Sharded<EmbeddingBagCollection<Set>, Local> model_;
  Optimizer<Sharded<EmbeddingBagCollection<Set>, Local>, Sgd> step_{model_, Sgd{}};
  KeyedJaggedTensor batch_;
  at::Tensor gradient_;
};

inline std::vector<HotLoop> hot_loops() {
  std::vector<HotLoop> loops;
  const auto add_lookup = [&](const char* name, std::int64_t dim, at::ScalarType dtype, bool is_weighted) {
    loops.push_back({concat("lookup/", name, "/", dim), [=] {
                       auto table = std::make_shared<LoopTable>(dim, dtype, is_weighted, Sgd{});
                       return std::function<void()>([table] { table->look_up(); });
                     }});
  };
  const auto add_step = [&](std::int64_t dim, RuleChoice<LoopTable::Set> rule) {
    loops.push_back({concat("step/", rule.name(), "/", dim), [=] {
                       auto table = std::make_shared<LoopTable>(dim, at::kFloat, false, rule);
                       return std::function<void()>([table] { table->step(); });
                     }});
  };
  for (const std::int64_t dim : {4, 16, 50, 64, 128}) add_lookup("float32", dim, at::kFloat, false);
  add_lookup("float16", 128, at::kHalf, false);
  add_lookup("bfloat16", 128, at::kBFloat16, false);
  add_lookup("weighted", 64, at::kFloat, true);
  for (const std::int64_t dim : {16, 128}) {
    add_step(dim, Sgd{});
    add_step(dim, RowwiseAdagrad{});
    add_step(dim, Adagrad{});
    add_step(dim, Adam{});
  }
  return loops;
}

}  // namespace rookery::benchmarks
