// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/loss/callable.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include <rookery/concepts/loss.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

struct Batch {
  at::Tensor x;                                              // [B]
  std::int64_t size() const { return x.size(0); }
};
struct Output {
  at::Tensor y;                                              // [B]
};
struct Slope {
  Parameter w{{1}, Zeros{}, 0, at::kDouble};
  static constexpr auto members() { return rookery::members("w", &Slope::w); }
  Output forward(const Batch& batch) { return {w.tensor().mul(batch.x)}; }
};
at::Tensor mean_of(const Output& output, const Batch&) { return output.y.mean(); }
at::Tensor sum_of(const Output& output, const Batch&) { return output.y.sum(); }

static_assert(concepts::Loss<decltype(mean_loss(&mean_of)), Output, Batch>);
static_assert(concepts::Loss<decltype(sum_loss(&sum_of)), Output, Batch>);
static_assert(!concepts::Loss<decltype(&mean_of), Output, Batch>);

/// Where w stands after one step of size 1 on rows 0 .. 9, cut at `cut` between two ranks; on Local where cut is negative.
template <class Loss> double after_a_step(const Loss& loss, std::int64_t cut) {
  double found = 0;
  const auto train = [&](auto& topology, std::int64_t begin, std::int64_t end) {
    auto model = maybe_shard_model(ModelAndLoss<Slope, Loss, Batch>{{}, loss}, topology);
    Optimizer step(model, Sgd{.learning_rate = 1});
    model({at::arange(begin, end, at::kDouble)}).loss.backward();
    step();
    if (topology.rank() == 0) found = model.model().w.tensor().template item<double>();
  };
  Local local;
  if (cut < 0) train(local, 0, 10);
  else Threads::run(2, [&](Threads topology) { topology.rank() == 0 ? train(topology, 0, cut) : train(topology, cut, 10); });
  return found;
}

}  // namespace

TEST_SUITE("loss/callable") {
  TEST_CASE("a mean over this rank's rows trains as the mean over the global batch, however it is cut") {
    for (const std::int64_t cut : {-1, 0, 1, 5, 9, 10}) CHECK(std::abs(after_a_step(mean_loss(&mean_of), cut) + 4.5) < 1e-14);
  }
  TEST_CASE("a sum trains as the sum") {
    for (const std::int64_t cut : {-1, 0, 1, 5, 9, 10}) CHECK(after_a_step(sum_loss(&sum_of), cut) == -45);
  }
  TEST_CASE("a lambda is a loss") {
    const double scale = 2;
    CHECK(after_a_step(sum_loss([scale](const Output& output, const Batch&) { return output.y.sum().mul(scale); }), 3) == -90);
  }
  TEST_CASE("the mean of no rows is a sum of zero") {
    const auto loss = mean_loss(&mean_of);
    const Batch none{at::zeros({0})};
    CHECK(loss(Output{at::zeros({0})}, none).item<double>() == 0);
    CHECK(loss.normaliser(none).item<double>() == 0);
  }
}

}  // namespace rookery
