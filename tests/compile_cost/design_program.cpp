// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The program that the library is designed for: own batch, own model, own loss, one training function for every topology. It is
// compiled as users would, to see what it costs, and run, to see that it trains. LOCAL_ONLY leaves one topology; the three macros
// MISTAKE_.. make the mistakes that tests/compile_fail looks at.

#include <rookery/core/text.hpp>
#include <rookery/log/json_lines.hpp>
#include <rookery/log/reducers.hpp>
#include <rookery/log/weight_logger.hpp>
#include <rookery/rookery.hpp>
#ifndef LOCAL_ONLY
#include <rookery/topology/threads.hpp>
#endif

#include <cstdint>
#include <utility>
#include <vector>

namespace rk = rookery;

struct Clicks {                                                // own batch: a plain aggregate
  at::Tensor dense, labels, weights;                           // [B, 13], [B], [B]
  rk::KeyedJaggedTensor user_ids, item_ids;
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() {                            // gives moves between devices and slices
    return rk::members("dense", &Clicks::dense, "labels", &Clicks::labels, "weights", &Clicks::weights, "user_ids", &Clicks::user_ids,
                       "item_ids", &Clicks::item_ids);
  }
};
struct Output {
  at::Tensor logits;                                           // [B]
};

struct Ranker {                                                // no base class, not a template on the topology
  using Rules = rk::Rules<rk::RowwiseAdagrad, rk::Adam>;       // the closed set of table optimizers
  rk::EmbeddingBagCollection<Rules> user, item;                // declarations: no memory until placed
  rk::Mlp over;
  static constexpr auto members() { return rk::members("user", &Ranker::user, "item", &Ranker::item, "over", &Ranker::over); }
  auto lookups(const Clicks& b) const {                        // phase 1: all of it is one exchange
#ifdef MISTAKE_FORGOTTEN_LOOKUP
    return rk::lookups(rk::lookup<&Ranker::user>(b.user_ids));
#else
    return rk::lookups(rk::lookup<&Ranker::user>(b.user_ids), rk::lookup<&Ranker::item>(b.item_ids));
#endif
  }
#ifndef MISTAKE_NO_FORWARD
  Output forward(const Clicks& b, const auto& pooled) {        // phase 2: dense
    auto x = at::cat({b.dense, get<&Ranker::user>(pooled).values(), get<&Ranker::item>(pooled).values()}, 1);   // [B, 13 + 128]
    return {over(x).squeeze(1)};
  }
#endif
};
struct WeightedBce {
#ifdef MISTAKE_WRONG_LOSS
  at::Tensor operator()(const at::Tensor& logits, const Clicks& b) const { return logits.sub(b.labels).sum(); }
#else
  at::Tensor operator()(const Output& o, const Clicks& b) const {                              // [] SUM over this rank's rows
    const auto x = o.logits;                                                                   // [B]
    const auto losses = x.clamp_min(0).sub(x.mul(b.labels)).add(x.abs().neg().exp().log1p());  // [B]
    return losses.mul(b.weights).sum();
  }
#endif
  at::Tensor normaliser(const Clicks& b) const { return b.weights.sum(); }                     // [] summed over ranks: the divisor
};
using Norms = rk::PerParameter<rk::For<"*.bias", rk::MaxAbs>, rk::For<"over.*", rk::L2Norm>, rk::For<"*", rk::MeanRowNorm>>;

struct Options {
  std::int64_t users = 1000, items = 300, rows = 64, steps = 60;
  const char* log = "/dev/null";
};

/// Ids in turn, dense columns of their own, labels that follow the parity of the user: this rank's rows of a global batch.
Clicks make(const Options& options, std::int64_t step, int rank, int ranks) {
  const auto begin = options.rows * rank / ranks, rows = options.rows * (rank + 1) / ranks - begin;
  std::vector<std::int64_t> users, items;
  std::vector<float> labels, dense;
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto number = (step * options.rows + begin + i) * 7919;
    users.push_back(number % options.users);
    items.push_back(number / 3 % options.items);
    labels.push_back(static_cast<float>(users.back() % 2));
    for (int column = 0; column < 13; ++column) dense.push_back(static_cast<float>((number + column) % 5) / 5);
  }
  const auto tensor = [](auto& values, at::ScalarType dtype) {
    auto out = at::empty({static_cast<std::int64_t>(values.size())}, dtype);
    std::copy(values.begin(), values.end(),
              out.template mutable_data_ptr<typename std::remove_reference_t<decltype(values)>::value_type>());
    return out;
  };
  const auto lengths = tensor(users, at::kLong).fill_(1);      // [B] one id a row
  const auto y = tensor(labels, at::kFloat);                   // [B]
  return {tensor(dense, at::kFloat).view({rows, 13}), y, y.mul(.5).add(.5),
          rk::KeyedJaggedTensor::from_lengths({"user_id"}, tensor(users, at::kLong), lengths),
          rk::KeyedJaggedTensor::from_lengths({"item_id"}, tensor(items, at::kLong), lengths)};
}

template <class Topology> int train(Topology topology, const Options& options) {
  Ranker ranker{
      .user = {{.name = "user_id",
                .num_embeddings = options.users,
                .embedding_dim = 64,
                .optimizer = rk::RowwiseAdagrad{.learning_rate = .05}}},
      .item = {{.name = "item_id", .num_embeddings = options.items, .embedding_dim = 64, .optimizer = rk::Adam{.learning_rate = 1e-3}}},
      .over = {13 + 128, {256, 1}}};
  rk::ShardingPolicy<Topology> sharding{topology, {.constraints = {{"item_id", {.kinds = {rk::ShardingKind::row_wise}}}}, .seed = 7}};
  auto model = sharding.apply(rk::ModelAndLoss<Ranker, WeightedBce, Clicks>{std::move(ranker), {}});
  if (topology.rank() == 0) fmt::print("{}\n", model.plan().report());
  rk::Optimizer step{model, rk::Adam{.learning_rate = 1e-3}, {.clip_norm = 1.0}};   // tables AND dense
  rk::WeightLogger<Norms> norms{model};
  rk::JsonLines log{topology, options.log};
  double first = 0, last = 0;
  for (std::int64_t i = 0; i < options.steps; ++i) {
    const auto batch = make(options, i, topology.rank(), topology.world_size());
    auto [loss, output] = model(batch);
    loss.backward();                                           // fills the captured gradients
    step();                                                    // exchange, normalise, check finite, clip, update
    last = rk::global_mean(model, loss, batch);
    if (i == 0) first = last;
    if (step.count() % 20 == 0) log(step.count(), norms(model));
  }
  if (topology.rank() == 0) fmt::print("loss {:.4f} -> {:.4f}\n", first, last);
  return last < .7 * first ? 0 : 1;
}

int main() {
#ifdef LOCAL_ONLY
  return rk::with_topology<rk::Local>(rk::Environment::read(), [&](auto topology) { return train(std::move(topology), Options{}); });
#else
  return rk::with_topology<rk::Local, rk::Threads>(rk::Environment::read(),
                                                   [&](auto topology) { return train(std::move(topology), Options{}); });
#endif
}
