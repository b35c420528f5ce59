// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What becomes of the statistics of a batch norm on ranks with batches of their own, under each policy.

#include <rookery/core/pass.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/scalar_tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/modules/batch_norm.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Batch {
  at::Tensor dense;                                          // [B, 3]
  std::int64_t size() const { return dense.size(0); }
};
struct Output {
  at::Tensor values;                                         // [B]
};
struct Normed {
  BatchNorm norm{3, {}, at::kDouble};
  Linear over{3, 1, at::kDouble};
  static constexpr auto members() { return rookery::members("norm", &Normed::norm, "over", &Normed::over); }
  Output forward(const Batch& b) { return {over(norm(b.dense)).squeeze(1)}; }
};
struct Squares {
  at::Tensor operator()(const Output& output, const Batch&) const { return output.values.sub(1).square().sum(); }
  at::Tensor normaliser(const Batch& b) const { return at::scalar_tensor(static_cast<double>(b.size()), at::kDouble); }
};

/// Rows of one rank, or of both one after the other; ranks differ in mean and number.
at::Tensor rows_of(int rank, int step) {
  Draw draw(static_cast<std::uint64_t>(10 * step + rank));
  return draw.tensor({rank == 0 ? 4 : 6, 3}).add(rank * 3);
}
struct Left {
  at::Tensor mean, var, first_output, prediction;
};
/// Two steps with what `rows(step)` gives.
template <class Topology, class Rows> Left train(Topology& topology, BufferPolicy buffers, Rows&& rows) {
  auto model = maybe_shard_model(ModelAndLoss<Normed, Squares, Batch>{{}, {}}, topology, {.seed = 2, .buffers = buffers});
  Optimizer step(model, Sgd{.learning_rate = 0});            // the weights stay, so that ranks differ by their rows alone
  at::Tensor first;
  for (int i = 0; i < 2; ++i) {
    const auto [loss, output] = model({rows(i)});
    if (i == 0) first = output.values.detach().clone();
    loss.backward();
    step();
  }
  const auto& norm = model.model().norm;
  return {norm.running_mean.tensor().clone(), norm.running_var.tensor().clone(), first, model.predict({rows_of(0, 9)}).values.clone()};
}
std::vector<Left> on_two_ranks(BufferPolicy buffers) {
  std::vector<Left> left(2);
  Threads::run(2, [&](Threads topology) {
    left[static_cast<std::size_t>(topology.rank())] = train(topology, buffers, [&](int step) { return rows_of(topology.rank(), step); });
  });
  return left;
}
template <class Rows> Left on_one(Rows&& rows) {
  Local local;
  return train(local, BufferPolicy::synchronised, rows);
}
bool close(const at::Tensor& found, const at::Tensor& wanted) { return difference(found, wanted) <= tolerance(at::kDouble); }

}  // namespace

TEST_SUITE("sharding/buffers") {
  TEST_CASE("synchronised: outputs and running statistics are those of one process on the rows of both ranks") {
    const auto left = on_two_ranks(BufferPolicy::synchronised);
    const auto whole = on_one([](int step) { return at::cat({rows_of(0, step), rows_of(1, step)}); });
    CHECK(close(at::cat({left[0].first_output, left[1].first_output}), whole.first_output));
    for (const auto& rank : left) {
      CHECK(close(rank.mean, whole.mean));
      CHECK(close(rank.var, whole.var));
      CHECK(close(rank.prediction, whole.prediction));
    }
  }
  TEST_CASE("broadcast: each rank's own rows in training, and rank 0's running statistics on both after each step") {
    const auto left = on_two_ranks(BufferPolicy::broadcast);
    const auto first = on_one([](int step) { return rows_of(0, step); }), second = on_one([](int step) { return rows_of(1, step); });
    CHECK(close(left[0].first_output, first.first_output));
    CHECK(close(left[1].first_output, second.first_output));
    for (const auto& rank : left) {
      CHECK(close(rank.mean, first.mean));
      CHECK(close(rank.var, first.var));
    }
    CHECK(at::equal(left[0].mean, left[1].mean));
    CHECK(at::equal(left[0].prediction, left[1].prediction));
  }
  TEST_CASE("local: each rank's own rows, and its own running statistics") {
    const auto left = on_two_ranks(BufferPolicy::local);
    for (int rank = 0; rank < 2; ++rank) {
      const auto alone = on_one([rank](int step) { return rows_of(rank, step); });
      const auto& found = left[static_cast<std::size_t>(rank)];
      CHECK(close(found.first_output, alone.first_output));
      CHECK(close(found.mean, alone.mean));
      CHECK(close(found.var, alone.var));
    }
    CHECK(difference(left[0].mean, left[1].mean) > .1);
    CHECK(difference(left[0].prediction, left[1].prediction) > .01);
  }
  TEST_CASE("ranks agree about the policy") {
    CHECK_THROWS_AS(Threads::run(2, [](Threads topology) {
      train(topology, topology.rank() == 0 ? BufferPolicy::local : BufferPolicy::broadcast, [](int step) { return rows_of(0, step); });
    }), ConfigError);
  }
}

}  // namespace rookery
