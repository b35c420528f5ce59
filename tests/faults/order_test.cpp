// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/loss/callable.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/threads.hpp>

#include <string>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

struct Batch {
  KeyedJaggedTensor users, items;
  std::int64_t size() const { return users.stride(); }
  static constexpr auto members() { return rookery::members("users", &Batch::users, "items", &Batch::items); }
};
struct Output {
  at::Tensor users, items;                                   // [B, 4], [B, 4]
};
using Tables = EmbeddingBagCollection<Rules<Sgd>>;
enum class Order { same, other_members, other_lookups };

/// Two collections that differ in nothing but their names.
template <Order order> struct Model {
  Tables user{{{.name = "user", .num_embeddings = 12, .embedding_dim = 4, .optimizer = Sgd{.learning_rate = .1}}}};
  Tables item{{{.name = "item", .num_embeddings = 12, .embedding_dim = 4, .optimizer = Sgd{.learning_rate = .1}}}};
  static constexpr auto members() {
    if constexpr (order == Order::other_members) return rookery::members("item", &Model::item, "user", &Model::user);
    else return rookery::members("user", &Model::user, "item", &Model::item);
  }
  auto lookups(const Batch& batch) const {
    const auto users = lookup<&Model::user>(batch.users);
    const auto items = lookup<&Model::item>(batch.items);
    if constexpr (order == Order::other_lookups) return rookery::lookups(items, users);
    else return rookery::lookups(users, items);
  }
  Output forward(const Batch&, const auto& pooled) {
    return {get<&Model::user>(pooled).values(), get<&Model::item>(pooled).values()};
  }
};
struct Loss {
  static constexpr bool divides = false;
  at::Tensor operator()(const Output& output, const Batch&) const { return output.users.mul(2).add(output.items).sum(); }   // []
};

/// Three steps of a rank. `fn(model, step, i)` goes before each.
template <Order order, class Topology, class Fn> std::vector<at::Tensor> train(Topology& topology, Fn&& fn) {
  auto model = maybe_shard_model(ModelAndLoss<Model<order>, Loss, Batch>{{}, {}}, topology,
                                 {.constraints = {{"user", {.kinds = {ShardingKind::row_wise}}}, {"item", {.kinds = {ShardingKind::row_wise}}}},
                                  .seed = 4});
  Optimizer step(model, Sgd{});
  for (int i = 0; i < 3; ++i) {
    cases::Draw draw(static_cast<std::uint64_t>(10 * i + topology.rank()));
    const Batch batch{cases::random_features(draw, {"user"}, {12}, 5), cases::random_features(draw, {"item"}, {12}, 5)};
    fn(model, batch, i);
    auto [loss, output] = model(batch);
    loss.backward();
    step();
  }
  return {gather_table(model, "user"), gather_table(model, "item")};
}
constexpr auto nothing = [](auto&, const Batch&, int) {};

/// What three ranks throw of which rank 1 calls `other` and the others `usual`.
template <class Usual, class Other> std::string thrown(Usual&& usual, Other&& other) {
  try {
    Threads::run(3, [&](Threads topology) { topology.rank() == 1 ? other(topology) : usual(topology); });
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_SUITE("faults/order") {
  TEST_CASE("F12 members in another order on one rank are refused at the start") {
    const auto said = thrown([](Threads& topology) { train<Order::same>(topology, nothing); },
                             [](Threads& topology) { train<Order::other_members>(topology, nothing); });
    CHECK_MESSAGE(said.find("ranks differ: rank 0 has 'user") != said.npos, said);
    CHECK_MESSAGE(said.find("and rank 1 has 'item") != said.npos, said);
  }
  TEST_CASE("F12 lookups in another order on one rank are refused at the start") {
    const auto usual = [](Threads& topology) { train<Order::same>(topology, nothing); };
    CHECK(thrown(usual, usual) == "");
    const auto said = thrown(usual, [](Threads& topology) { train<Order::other_lookups>(topology, nothing); });
    CHECK_MESSAGE(said.find("ShardingPolicy: ranks differ: rank 0 has 'lookup of user' and rank 1 has 'lookup of item'") != said.npos, said);
  }
  TEST_CASE("F12 passes and steps in another order on one rank are a line that names both") {
    const auto usual = [](Threads& topology) { train<Order::same>(topology, nothing); };
    const auto evaluates = thrown(usual, [](Threads& topology) {
      train<Order::same>(topology, [](auto& model, const Batch& batch, int i) {
        if (i != 1) return;
        const at::NoGradGuard no_grad;
        model(batch);
      });
    });
    CHECK_MESSAGE(evaluates.find(" trains and rank 1 does not: predict(), train(false) and NoGradGuard are for all ranks or none") != std::string::npos, evaluates);
    const auto barrier_first = thrown(usual, [](Threads& topology) {
      train<Order::same>(topology, [&](auto&, const Batch&, int i) {
        if (i == 2) topology.barrier().wait();
      });
    });
    CHECK_MESSAGE(barrier_first.find(" on rank 0 but barrier on rank 1; did every rank see the same number of batches?") != std::string::npos,
                  barrier_first);
  }
  TEST_CASE("F12 ranks that gather different tables of one shape are told so, not given a mixture") {
    const auto gather = [](Threads& topology, const char* name) {
      auto model = maybe_shard_model(ModelAndLoss<Model<Order::same>, Loss, Batch>{{}, {}}, topology, {.seed = 4});
      gather_table(model, name);
    };
    const auto said = thrown([&](Threads& topology) { gather(topology, "user"); }, [&](Threads& topology) { gather(topology, "item"); });
    CHECK_MESSAGE(said.find("gather_table: ranks differ: rank 0 has 'user.embedding_bags.user' and rank 1 has 'item.embedding_bags.item'") !=
                      said.npos, said);
  }
}

}  // namespace rookery
