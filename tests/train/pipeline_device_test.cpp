// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/side_stream.hpp>
#include <rookery/train/pipeline.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/train/batches.hpp>

#include "support/fake_device.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Clicks {
  at::Tensor dense, labels, of_ids;                          // [B, 3], [B], [ids]
  KeyedJaggedTensor ids;
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &Clicks::dense, "labels", &Clicks::labels, "of_ids", &Clicks::of_ids, "ids", &Clicks::ids);
  }
};
struct Logits {
  at::Tensor logits;                                         // [B]
};
using Tables = EmbeddingBagCollection<Rules<Adam>>;

struct Ranker {
  Tables tables{std::vector<EmbeddingBagConfig<Rules<Adam>>>{{.name = "a", .num_embeddings = 20, .embedding_dim = 5, .optimizer = Adam{}}},
                {.is_weighted = true}};
  Mlp over{8, {4, 1}, FinalActivation::none};
  bool weighs_there = false;                                 // its lookups have weights that are worked out on the device
  static constexpr auto members() { return rookery::members("tables", &Ranker::tables, "over", &Ranker::over); }
  auto lookups(const Clicks& b) const {
    const auto weights = weighs_there ? b.of_ids.mul(2).add(1) : b.of_ids.detach();          // [ids]
    return rookery::lookups(lookup<&Ranker::tables>(
        KeyedJaggedTensor::from_lengths(b.ids.keys(), b.ids.values(), b.ids.lengths(), weights, b.ids.stride())));
  }
  Logits forward(const Clicks& b, const auto& pooled) {
    return {over(at::cat({b.dense, get<&Ranker::tables>(pooled).values()}, 1)).squeeze(1)};  // [B]
  }
};

struct Source {
  std::uint64_t next_seed = 20, end = 26;
  std::optional<Clicks> next() {
    if (next_seed == end) return {};
    Draw draw(next_seed++);
    const auto rows = draw.integer(2, 7);
    auto ids = random_features(draw, {"a"}, {20}, rows);
    auto weights = draw.tensor({ids.values().numel()}, at::kFloat);
    return Clicks{draw.tensor({rows, 3}, at::kFloat), draw.tensor({rows}).gt(0).to(at::kFloat), std::move(weights), std::move(ids)};
  }
};

struct Found {
  std::vector<at::Tensor> tensors;
  std::int64_t waits = 0;
};
Found trained(bool weighs_there, bool ahead) {
  Local topology(fake_device);
  ShardingPolicy<Local> sharding(topology, {.seed = 3});
  Ranker declared;
  declared.weighs_there = weighs_there;
  auto model = sharding.apply(ModelAndLoss<Ranker, Bce, Clicks>{std::move(declared), {}});
  Optimizer step(model, Adam{.learning_rate = .05});
  Found found;
  std::vector<at::Tensor> losses;
  const auto train = [&](const Clicks& batch) {
    auto [loss, output] = model(batch);
    loss.backward();
    step();
    losses.push_back(loss.detach());
  };
  Source source;
  device_to_host();
  if (ahead) {
    for (const auto& batch : pipelined<SparseDist>(model, source)) train(batch);
  } else {
    for (const auto& batch : batches(topology, source)) train(batch);
  }
  found.waits = device_to_host();
  step.wait();
  for (const auto& loss : losses) found.tensors.push_back(loss.cpu());
  found.tensors.push_back(gather_table(model, "tables.embedding_bags.a").cpu());
  model.for_each_parameter([&](auto, const Parameter& parameter) { found.tensors.push_back(parameter.tensor().detach().cpu()); });
  return found;
}

}  // namespace

TEST_SUITE("train/pipeline on a device") {
  TEST_CASE("the next batch is copied by a stream of its own, and waited for before it is used: bits and waits are the plain loop's") {
    for (const bool weighs_there : {false, true}) {
      CAPTURE(weighs_there);
      const auto plain = trained(weighs_there, false);
      fake::ran_beside = fake::used_beside = 0;
      const auto ahead = trained(weighs_there, true);
      CHECK(fake::ran_beside.load() == 3 * 6);               // dense, labels and weights of each batch
      CHECK(fake::used_beside.load() == 4 * 6);              // these, and the weights of its ids
      CHECK(ahead.waits == plain.waits);
      REQUIRE(ahead.tensors.size() == plain.tensors.size());
      for (std::size_t i = 0; i < plain.tensors.size(); ++i) CHECK(at::equal(plain.tensors[i], ahead.tensors[i]));
      CHECK_FALSE(plain.tensors.front().isnan().any().item<bool>());
    }
  }
  TEST_CASE("what a side stream copies is there for whoever waits for its event, and not before") {
    SideStream side;
    at::Tensor there;
    const auto here = at::full({3}, 2.5, at::kFloat);
    const auto done = side.run(fake_device, [&] { there = here.to(fake_device); });
    CHECK(seen_on_device(there).isnan().all().item<bool>());
    done.block(c10::impl::VirtualGuardImpl(fake_device.type()).getStream(fake_device));
    CHECK(at::equal(seen_on_device(there), here));
  }
}

}  // namespace rookery
