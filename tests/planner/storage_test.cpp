// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/planner/storage.hpp>

#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

using Rows = ShardCut::Rows;

TableDescription table(std::int64_t rows, std::int64_t dim) {
  return {.name = "embedding_bags.t", .table = "t", .num_embeddings = rows, .embedding_dim = dim, .rule = "sgd"};
}

}  // namespace

TEST_SUITE("planner/storage") {
  TEST_CASE("A58 what a pipeline holds beside a table of 100 bytes") {
    const std::int64_t weight = 100, input = 1024, output = 3333;
    using enum TrainPipeline;
    CHECK(weight + pipeline_bytes(input, output, 0, {}) == 100 + 3333 + 1024);
    CHECK(weight + pipeline_bytes(input, output, 0, {.pipeline = sparse_dist}) == 100 + 2048);
    CHECK(weight + pipeline_bytes(input, output, 0, {.pipeline = sparse_dist, .lookups_at_peak = true}) == 100 + 2048 + 3333);
    CHECK(weight + pipeline_bytes(input, output, input, {.pipeline = prefetch_sparse_dist}) == 100 + 10240);
    CHECK(weight + pipeline_bytes(input, output, 0, {.pipeline = prefetch_sparse_dist}) == 100 + 3072);
    CHECK(weight + pipeline_bytes(input, output, input, {.pipeline = prefetch_sparse_dist, .prefetch_passes = 10}) == 100 + 3072 + 1638);
    CHECK(pipeline_bytes(input, output, input, {.pipeline = prefetch_sparse_dist, .lookups_at_peak = true}) == 10240 + 3333);
  }
  TEST_CASE("inputs and outputs of each cut, by hand") {
    const auto one = table(100, 10);
    const TopologyFacts facts{.world_size = 4, .local_world_size = 2};
    const auto load = load_of(one, {.pooling_factors = {3}}, 8);                   // 24 ids in 8 bags
    CHECK(input_bytes(one, load, facts, {10}) == 24 * 4 * 8);
    CHECK(output_bytes(one, load, facts, {10}) == 8 * 4 * 10 * 4);
    CHECK(output_bytes(one, load, facts, {6}) == 8 * 4 * 6 * 4);
    CHECK(input_bytes(one, load, facts, {10, Rows::across, 4}) == 24 * 8);
    CHECK(output_bytes(one, load, facts, {10, Rows::across, 4}) == 8 * 4 * 10 * 4);   // a partial sum for every bag
    CHECK(input_bytes(one, load, facts, {10, Rows::in_node, 2}) == 24 * 2 * 8);
    CHECK(input_bytes(one, load, facts, {10, Rows::replicated}) == 24 * 8);
    CHECK(output_bytes(one, load, facts, {10, Rows::replicated}) == 8 * 10 * 4);
    const auto rare = load_of(one, {.pooling_factors = {.25}}, 8);                 // two bags hold an id
    CHECK(output_bytes(one, rare, facts, {10}) == 2 * 4 * 10 * 4);
    auto weighted = one;
    weighted.is_weighted = true;
    CHECK(input_bytes(weighted, load, facts, {10}) == 2 * 24 * 4 * 8);
    auto half = one;
    half.data_type = at::kHalf;
    CHECK(output_bytes(half, load, facts, {10}) == 8 * 4 * 10 * 4);
    auto sequence = one;
    sequence.pooling = PoolingType::none;
    const auto rows = load_of(sequence, {.pooling_factors = {3}}, 8);
    CHECK(output_bytes(sequence, rows, facts, {10}) == 24 * 4 * 10 * 4);
    CHECK(output_bytes(sequence, rows, facts, {10, Rows::across, 4}) == 24 * 10 * 4);
  }
  TEST_CASE("reservation: a share of the memory, copies of what is dense, copies of a batch") {
    const TopologyFacts facts{.world_size = 2, .device = c10::DeviceType::CUDA, .device_memory = 1000};
    const std::vector<TableLoad> loads{{.ids = 3, .rows = 3, .filled_rows = 3}, {.ids = 2.5, .rows = 1, .filled_rows = 1}};
    CHECK(reserved_bytes({}, facts, loads) == 150 + 20 * 44);
    CHECK(reserved_bytes({.dense_bytes = 11, .bytes = 7}, facts, loads) == 150 + 6 * 11 + 20 * 44 + 7);
    CHECK(reserved_bytes(StorageReservation::fixed_percentage(.4), facts, loads) == 400);
    CHECK(reserved_bytes({}, {.host_memory = 2000}, {}) == 300);
    CHECK_THROWS_WITH_AS(reserved_bytes({.fraction = 1.5}, facts, loads),
                         "StorageReservation: 1.5 of the memory; a share is between 0 and 1", PlanError);
  }
}

}  // namespace rookery
