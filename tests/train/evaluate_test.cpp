// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/train/evaluate.hpp>

#include <ATen/ops/tensor.h>

#include <cstdint>
#include <vector>

#include <rookery/loss/callable.hpp>
#include <rookery/metrics/gauc.hpp>
#include <rookery/metrics/regression.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

/// Gives back what the batch says.
template <class Batch, class Output> struct Echo {
  static constexpr auto members() { return rookery::members(); }
  Output forward(const Batch& batch) { return {batch.values}; }
};
struct Sum {
  at::Tensor operator()(const auto&, const auto& batch) const { return batch.values.sum(); }
  at::Tensor normaliser(const auto& batch) const { return batch.labels.sum(); }
};
struct Plain {
  at::Tensor values, labels;                                 // [B]
  std::int64_t size() const { return labels.size(0); }
};
struct Grouped {
  at::Tensor values, labels, weights, groups;                // [B]
  std::int64_t size() const { return labels.size(0); }
};
struct Predictions {
  at::Tensor predictions;                                    // [B]
};
struct Logits {
  at::Tensor logits;                                         // [B]
};

}  // namespace

TEST_SUITE("train/evaluate") {
  TEST_CASE("predictions are taken as they are; a batch needs no weights") {
    Local topology;
    auto model = maybe_shard_model(ModelAndLoss<Echo<Plain, Predictions>, Sum, Plain>{{}, {}}, topology);
    const std::vector<Plain> batches{{at::tensor({1., 5.}), at::tensor({0., 3.})}, {at::tensor({2.}), at::tensor({-1.})}};
    CHECK(evaluate(model, batches, MetricSuite{Mse{}}).get<Mse>().value() == doctest::Approx((1 + 4 + 9) / 3.));
  }

  TEST_CASE("weights and groups of the batch reach the metrics, over ranks too") {
    Threads::run(2, [](Threads topology) {
      auto model = maybe_shard_model(ModelAndLoss<Echo<Grouped, Logits>, Sum, Grouped>{{}, {}}, topology);
      const auto group = static_cast<double>(topology.rank());             // one group in the right order, one in the wrong
      const auto sign = topology.rank() == 0 ? 1. : -1.;
      const std::vector<Grouped> batches{
          {at::tensor({2 * sign, sign}), at::tensor({1., 0.}), at::tensor({1., 1.}), at::tensor({group, group}).to(at::kLong)}};
      CHECK(evaluate(model, batches, Gauc{}).value() == doctest::Approx(.5));
    });
  }
}

}  // namespace rookery
