// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/sharding/global_mean.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <vector>

#include <rookery/core/members.hpp>
#include <rookery/loss/callable.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

struct Batch {
  at::Tensor values;                                         // [B]
  std::int64_t size() const { return values.size(0); }
};
struct Output {
  at::Tensor values;
};
struct Identity {
  static constexpr auto members() { return rookery::members(); }
  Output forward(const Batch& batch) { return {batch.values}; }
};
at::Tensor mean_of(const Output& output, const Batch&) { return output.values.mean(); }
at::Tensor sum_of(const Output& output, const Batch&) { return output.values.sum(); }

template <class Loss, class Topology> double global(Topology& topology, Loss loss, const std::vector<double>& values) {
  auto model = maybe_shard_model(ModelAndLoss<Identity, Loss, Batch>{{}, loss}, topology);
  const Batch batch{at::tensor(values, at::kDouble)};
  const auto sum = model(batch).loss;
  const auto copy = sum.detach().clone();
  const double mean = global_mean(model, sum, batch);
  CHECK(sum.equal(copy));                                    // nothing is written over
  return mean;
}

}  // namespace

TEST_SUITE("sharding/global_mean") {
  TEST_CASE("4.2 global loss: ranks with 1 and 3 give the mean 2 and the sum 4") {
    Threads::run(2, [](Threads topology) {
      const std::vector<double> mine{topology.rank() == 0 ? 1. : 3.};
      CHECK(global(topology, mean_loss(&mean_of), mine) == 2);
      CHECK(global(topology, sum_loss(&sum_of), mine) == 4);
    });
  }
  TEST_CASE("uneven batches weigh by their rows, an empty one not at all") {
    Threads::run(3, [](Threads topology) {
      const std::vector<std::vector<double>> values{{1, 1, 1}, {}, {5}};
      CHECK(global(topology, mean_loss(&mean_of), values[static_cast<std::size_t>(topology.rank())]) == 2);
    });
  }
  TEST_CASE("one process needs no exchange; no rows have no mean") {
    Local local;
    CHECK(global(local, mean_loss(&mean_of), {1, 2, 6}) == 3);
    CHECK(std::isnan(global(local, mean_loss(&mean_of), {})));
  }
}

}  // namespace rookery
