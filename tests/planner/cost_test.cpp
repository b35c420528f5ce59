// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/planner/cost.hpp>

#include <cmath>
#include <string>

#include "support/test.hpp"

namespace rookery {
namespace {

using Rows = ShardCut::Rows;

TableDescription table(std::int64_t rows, std::int64_t dim) {
  return {.name = "embedding_bags.t", .table = "t", .num_embeddings = rows, .embedding_dim = dim, .rule = "sgd"};
}
TopologyFacts gpus(int world_size, int local_world_size = 0) {
  return {.world_size = world_size, .local_world_size = local_world_size, .device = c10::DeviceType::CUDA};
}
/// All printed digits, and TorchRec's milliseconds.
void same(double seconds, double milliseconds) { CHECK(seconds * 1000 == doctest::Approx(milliseconds).epsilon(2e-15)); }
void same(const StepCost& cost, double forward_compute, double forward_comms, double backward_compute, double backward_comms) {
  same(cost.forward_compute, forward_compute);
  same(cost.forward_comms, forward_comms);
  same(cost.backward_compute, backward_compute);
  same(cost.backward_comms, backward_comms);
}
StepCost cost_of(const TableDescription& one, const TopologyFacts& facts, const ShardCut& cut, const ParameterConstraints& asked = {}) {
  return shard_cost(one, load_of(one, asked, 512), facts, cut);
}

}  // namespace

TEST_SUITE("planner/cost") {
  TEST_CASE("A52 a whole table on one of two ranks") {
    same(cost_of(table(100, 10), gpus(2), {10}), .000327460077428233, 6.357828776041667e-05, .000654920154856466, 6.357828776041667e-05);
  }
  TEST_CASE("A53 rows over two ranks") {
    same(cost_of(table(100, 10), gpus(2), {10, Rows::in_node, 2}), 6.804365245261984e-05, 6.357828776041667e-05, .0001360873049052397,
         .00016798276699240525);
  }
  TEST_CASE("A54 a copy on both ranks") {
    same(cost_of(table(100, 10), gpus(2), {10, Rows::replicated}), 9.356002212235228e-05, 0, 2 * 9.356002212235228e-05,
         .000225593945387348);
  }
  TEST_CASE("A55 tables in the host's memory, with and without a cache") {
    const auto facts = gpus(2);
    const auto one = table(100, 10);
    const auto forward = [&](double bandwidth) { return shard_cost(one, load_of(one, {}, 512), facts, {10}, bandwidth).forward_compute; };
    same(forward(kernel_bandwidth(facts, LookupKernel::unified_memory)), .09179115295410156);
    same(forward(kernel_bandwidth(facts, LookupKernel::cached_unified_memory)), .01432837509527439);
    const double bandwidths[] = {3435973.8368, 26655640.7808, 49875307.7248, 73094974.6688, 96314641.6128};
    for (int quarter = 0; quarter <= 4; ++quarter)
      CHECK(kernel_bandwidth(facts, LookupKernel::cached_unified_memory, quarter / 4.) / 1000 ==
            doctest::Approx(bandwidths[quarter]).epsilon(2e-15));
    CHECK(kernel_bandwidth(facts, LookupKernel::cached_unified_memory, .2, true) / 1000 == 963146416.128);
  }
  TEST_CASE("A56 rows that come back one by one") {
    auto one = table(256, 32);
    one.pooling = PoolingType::none;
    same(cost_of(one, gpus(2), {32}).total(), .001880471390093715);
    same(cost_of(one, gpus(2), {32, Rows::in_node, 2}).total(), .0007915177871551004);
    same(cost_of(one, gpus(2), {32, Rows::replicated}).total(), .0026901057997143255);
  }
  TEST_CASE("A52 A53 A54 on CPUs the host's memory is read") {
    const TopologyFacts cpus{.world_size = 2};
    same(cost_of(table(100, 10), cpus, {10}), .0057594448912377449, 6.357828776041667e-05, .01151888978247549, 6.357828776041667e-05);
    same(cost_of(table(100, 10), cpus, {10, Rows::in_node, 2}), .001196767769607843, 6.357828776041667e-05, .002393535539215686,
         .0018998688342524511);
    same(cost_of(table(100, 10), cpus, {10, Rows::replicated}), .0016455556832107841, 0, .0032911113664215682, .0014959597120098038);
  }
  TEST_CASE("several nodes, weights, pooling factors: against the formulas computed elsewhere") {
    auto one = table(100, 10);
    same(cost_of(one, gpus(16, 8), {10, Rows::in_node, 8}), .00039125100160256407, .0035603841145833335, .00078250200320512814,
         .004395619948439242);
    same(cost_of(one, gpus(16, 8), {10, Rows::across, 16}), .00036573463193283163, .0244140625, .00073146926386566326,
         .025249298333855908);
    same(cost_of(one, gpus(32, 8), {10, Rows::replicated}), 9.3560022122352282e-05, 0, .00018712004424470456, .00018834104240272886);
    one.is_weighted = true;
    same(cost_of(one, gpus(16, 8), {10, Rows::in_node, 8}, {.pooling_factors = {3}}), .00051883284995122626, .0035603841145833335,
         .0016083818348488015, .004395619948439242);
    auto wide = table(100, 96);
    wide.is_weighted = true;
    same(cost_of(wide, gpus(16, 8), {96}, {.pooling_factors = {3}}), .015493539663461538, .234375, .048029972956730768, .234375);
  }
  TEST_CASE("a frozen table has no backward pass, one rank no exchange, and columns are priced alone") {
    auto one = table(100, 256);
    const auto trained = cost_of(one, gpus(2), {128});
    CHECK(2 * trained.forward_comms == cost_of(one, gpus(2), {256}).forward_comms);
    one.frozen = true;
    for (const auto& cut : {ShardCut{128}, ShardCut{128, Rows::in_node, 2}, ShardCut{256, Rows::replicated}}) {
      CHECK(cost_of(one, gpus(2), cut).forward_compute > 0);
      CHECK(cost_of(one, gpus(2), cut).backward_compute == 0);
      CHECK(cost_of(one, gpus(2), cut).backward_comms == 0);
    }
    one.frozen = false;
    CHECK(cost_of(one, gpus(1), {256}).forward_comms == 0);
    CHECK(cost_of(one, gpus(1), {256}).backward_comms == 0);
    CHECK(cost_of(one, gpus(1), {256}).backward_compute > 0);
  }
  TEST_CASE("rows of half precision are read as such; sums are float32") {
    auto one = table(100, 128);
    const auto whole = cost_of(one, gpus(2), {128});
    one.data_type = at::kHalf;
    const auto half = cost_of(one, gpus(2), {128});
    CHECK(half.forward_comms == whole.forward_comms);
    same(whole.forward_compute - half.forward_compute, 512 * 2 * 128 * 2 / 963146416.128);
    one.data_type = at::kDouble;
    CHECK(cost_of(one, gpus(2), {128}).forward_comms == 2 * whole.forward_comms);
  }
  TEST_CASE("loads add up over features") {
    auto one = table(100, 10);
    one.features = 3;
    auto load = load_of(one, {.pooling_factors = {.5, 1, 20}, .num_poolings = {2}, .batch_sizes = {10, 100, 1000}}, 512);
    CHECK(load.ids == .5 * 2 * 10 + 2 * 100 + 20 * 2 * 1000);
    CHECK(load.rows == 2 * 1110);
    CHECK(load.filled_rows == 2 * (5 + 100 + 1000));
    CHECK(load_of(one, {}, 512).ids == 3 * 512);
    one.pooling = PoolingType::none;
    CHECK(load_of(one, {.pooling_factors = {4}}, 512).rows == 3 * 4 * 512);
    const auto refuse = [&](const ParameterConstraints& asked, std::int64_t batch_size, const std::string& sentence) {
      CHECK_THROWS_WITH_AS(load_of(one, asked, batch_size), concat("constraints: table 'embedding_bags.t' has ", sentence).c_str(),
                           PlanError);
    };
    refuse({.pooling_factors = {1, 2}}, 1, "3 features and 2 pooling_factors; give one for all or one for each");
    refuse({.pooling_factors = {1, 2, 3, 4}}, 1, "3 features and 4 pooling_factors; give one for all or one for each");
    refuse({.batch_sizes = {1, 2, 3, 4}}, 1, "3 features and 4 batch_sizes; give one for all or one for each");
    refuse({.num_poolings = {-1}}, 1, "-1 in its num_poolings; that must be a number from 0 on");
    refuse({.pooling_factors = {1, 1, INFINITY}}, 1, "inf in its pooling_factors; that must be a number from 0 on");
    refuse({.batch_sizes = {8, 0, 8}}, 1, "0 in its batch_sizes; that must be a number from 1 on");
    refuse({.batch_sizes = {-1}}, 1, "-1 in its batch_sizes; that must be a number from 1 on");
    one.features = 1;
    refuse({.pooling_factors = {1, 2}}, 1, "1 feature and 2 pooling_factors; give one for all or one for each");
  }
}

}  // namespace rookery
