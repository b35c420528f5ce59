// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The exchange benchmark: a collection of a known workload under one kind of sharding, its bytes and messages counted, its steps timed.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/barrier.hpp>
#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>

#include "counting.hpp"

namespace rookery::benchmarks {

/// Tables of one width, a feature each, and how many ids a bag of each has.
struct Workload {
  std::string name;
  std::vector<std::int64_t> rows, pooling;
  std::int64_t dim = 128, batch = 512;           // batch: over all ranks
  double alpha = 1.05;                           // of the law of ids, rank^-alpha; 0: all rows alike
};

/// W1, 32 equal tables, or W2s, those of DLRM-DCNv2 with the largest cut to a million rows; tables of more than `most_rows` are cut.
inline Workload workload(const std::string& name, std::int64_t most_rows) {
  Workload one{.name = name, .rows = {}, .pooling = {}};
  if (name == "W1") {
    one.rows.assign(32, 100'000);
    one.pooling.assign(32, 20);
  } else {
    check<ConfigError>(name == "W2s", "workload '", name, "'; there are W1 and W2s");
    one.rows = {1'000'000, 39'060, 17'295, 7'424, 20'265, 3, 7'122, 1'543, 63, 1'000'000, 1'000'000, 405'282, 10,
                2'209, 11'938, 155, 4, 976, 14, 1'000'000, 1'000'000, 1'000'000, 590'152, 12'973, 108, 36};
    one.pooling = {3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1};
  }
  for (auto& rows : one.rows) rows = std::min(rows, most_rows);
  return one;
}

/// Ids of `count` batches of one rank, each table by table: a function of the workload, the rank and nothing else.
inline std::vector<std::vector<std::int64_t>> draw_ids(const Workload& work, int rank, int ranks, int count) {
  std::vector<std::vector<std::int64_t>> batches(static_cast<std::size_t>(count));
  for (std::size_t t = 0; t < work.rows.size(); ++t) {
    const auto rows = work.rows[t];
    std::mt19937_64 law(t), drawn(1 + t * 1000 + static_cast<std::size_t>(rank));
    std::vector<double> sums;                                // cumulated weights of the ranks of a table's rows
    std::vector<std::int64_t> row_of_rank(static_cast<std::size_t>(rows));
    std::iota(row_of_rank.begin(), row_of_rank.end(), 0);
    std::shuffle(row_of_rank.begin(), row_of_rank.end(), law);
    double sum = 0;
    for (std::int64_t k = 1; k <= rows; ++k) sums.push_back(sum += std::pow(static_cast<double>(k), -work.alpha));
    for (auto& ids : batches)
      for (std::int64_t i = 0; i < work.batch / ranks * work.pooling[t]; ++i) {
        const auto at = std::uniform_real_distribution<double>(0, sum)(drawn);
        const auto found = std::lower_bound(sums.begin(), sums.end() - 1, at) - sums.begin();
        ids.push_back(row_of_rank[static_cast<std::size_t>(found)]);
      }
  }
  return batches;
}

/// How a workload is run.
struct Setting {
  ShardingKind kind = ShardingKind::table_wise;
  ExchangeOptions exchange{};
  int warm_up = 5, steps = 20;
};

/// Bytes that a rank sends in a step.
struct Formula {
  double forward = 0, step = 0;
};
/// By the formulas of the field, for P ranks with b rows each, ids of 8 bytes and lengths of 4; U are distinct rows. A mean over the ranks,
/// which need not hold the same. Of sums and unique rows the exchange takes what is less for a table, unless it is told.
inline Formula formula(const Workload& work, const Setting& setting, int ranks, const std::vector<double>& distinct_of_rank,
                       const std::vector<double>& distinct_of_all) {
  const double b = static_cast<double>(work.batch / ranks), P = ranks, share = (P - 1) / P, dim = static_cast<double>(work.dim);
  const auto bytes = [&](CommType type) { return dim * static_cast<double>(c10::elementSize(comm_dtype(type, c10::ScalarType::Float))); };
  const double there = bytes(setting.exchange.forward_precision), back = bytes(setting.exchange.backward_precision);
  Formula total;
  double dense = 0, sparse = 0;
  for (std::size_t t = 0; t < work.rows.size(); ++t) {
    const double ids = b * static_cast<double>(work.pooling[t]) * 8, lengths = b * 4, unique = distinct_of_rank[t];
    Formula sums, rows{unique * (8 + there) * share, unique * back * share};
    switch (setting.kind) {
      case ShardingKind::table_wise: sums = {(ids + lengths + b * there) * share, b * back * share}; break;
      case ShardingKind::row_wise: sums = {ids * share + (lengths + b * there) * (P - 1), b * back * (P - 1)}; break;
      case ShardingKind::column_wise:
        sums = {(ids + lengths) * (P - 1) + b * there * share, b * back * share};
        rows.forward += unique * 8 * (P - 1 - share);
        total.step += distinct_of_all[t] * 8 * (P - 1);      // rowwise state needs sums over whole rows
        break;
      case ShardingKind::data_parallel:
        dense += 2 * static_cast<double>(work.rows[t]) * dim * 4 * share;
        sparse += unique * (8 + dim * 4) * (P - 1);
        rows = {};
        break;
      default: fail<ConfigError>("no formula for ", to_string(setting.kind));
    }
    const auto pooled = setting.exchange.pooled;
    const bool fewer = rows.forward + rows.step < sums.forward + sums.step;
    const auto& taken = pooled == PooledExchange::unique_rows || (pooled == PooledExchange::fewest_bytes && fewer) ? rows : sums;
    total = {total.forward + taken.forward, total.step + taken.step};
  }
  return {total.forward, total.step + std::min(dense, sparse)};
}

/// Distinct ids of each table in the batches of some ranks together, a mean over their batches.
inline std::vector<double> distinct(const Workload& work, std::int64_t rows,
                                    const std::vector<std::vector<std::vector<std::int64_t>>>& of_rank) {
  std::vector<double> found;
  std::int64_t begin = 0;
  for (const auto pooling : work.pooling) {
    const auto count = rows * pooling;
    double total = 0;
    for (std::size_t batch = 0; batch < of_rank[0].size(); ++batch) {
      std::vector<std::int64_t> ids;
      for (const auto& batches : of_rank) ids.insert(ids.end(), batches[batch].begin() + begin, batches[batch].begin() + begin + count);
      std::sort(ids.begin(), ids.end());
      total += static_cast<double>(std::unique(ids.begin(), ids.end()) - ids.begin());
    }
    found.push_back(total / static_cast<double>(of_rank[0].size()));
    begin += count;
  }
  return found;
}

/// What came of one run: of a step, with the numbers of collectives, messages and bytes as means over ranks.
struct Measured {
  std::vector<double> step_us;                               // each step of this rank: forward, backward and update
  Traffic forward, step;
  double forward_us = 0;                                     // of the mean step, what the forward pass takes
  double cpu_us = 0;                                         // of this process, all threads, a step
  Formula expected;
};

/// Steps of a placed collection whose pooled values all get gradients of one.
template <class Topology> Measured measure(Topology& inner, const Workload& work, const Setting& setting) {
  Counting<Topology> topology{inner};
  const int ranks = topology.world_size();
  const auto b = work.batch / ranks;
  std::vector<std::string> keys;
  std::vector<EmbeddingBagConfig<Rules<RowwiseAdagrad>>> tables;
  Constraints constraints;
  for (std::size_t t = 0; t < work.rows.size(); ++t) {
    keys.push_back(concat("f", t));
    tables.push_back({.name = concat("t", t),
                      .num_embeddings = work.rows[t],
                      .embedding_dim = work.dim,
                      .feature_names = {keys.back()},
                      .initial = Constant{.01},
                      .optimizer = RowwiseAdagrad{.learning_rate = .1}});
    constraints[tables.back().name].kinds = {setting.kind};
  }
  ShardingPolicy<Counting<Topology>> sharding{topology, {.constraints = constraints, .exchange = setting.exchange}};
  auto model = sharding.apply(EmbeddingBagCollection<Rules<RowwiseAdagrad>>{std::move(tables)});
  Optimizer step{model, Sgd{.learning_rate = .1}};

  std::vector<std::vector<std::vector<std::int64_t>>> ids;
  for (int rank = 0; rank < ranks; ++rank) ids.push_back(draw_ids(work, rank, ranks, 8));
  auto lengths = at::empty({static_cast<std::int64_t>(keys.size()) * b}, at::kLong);         // [T * b]
  for (std::size_t t = 0; t < keys.size(); ++t) lengths.narrow(0, static_cast<std::int64_t>(t) * b, b).fill_(work.pooling[t]);
  std::vector<KeyedJaggedTensor> batches;
  for (const auto& own : ids[static_cast<std::size_t>(topology.rank())]) {
    auto values = at::empty({static_cast<std::int64_t>(own.size())}, at::kLong);             // [b * sum(L)]
    std::copy(own.begin(), own.end(), values.template mutable_data_ptr<std::int64_t>());
    batches.push_back(KeyedJaggedTensor::from_lengths(keys, std::move(values), lengths));
  }
  const auto gradient = at::ones({b, static_cast<std::int64_t>(keys.size()) * work.dim});    // [b, sum(D)]

  Measured measured;
  Traffic forward_sent, step_sent;
  std::clock_t cpu = 0;
  for (int s = 0; s < setting.warm_up + setting.steps; ++s) {
    barrier(topology);
    if (s == setting.warm_up) cpu = std::clock();
    const auto before = topology.sent();
    const Stopwatch clock;
    auto pooled = model(batches[static_cast<std::size_t>(s) % batches.size()]).values();     // [b, sum(D)]
    const auto forward_us = clock.seconds() * 1e6;
    const auto between = topology.sent();
    pooled.backward(gradient);
    step();
    if (s < setting.warm_up) continue;
    measured.step_us.push_back(clock.seconds() * 1e6);
    measured.forward_us += forward_us / setting.steps;
    forward_sent = forward_sent + (between - before);
    step_sent = step_sent + (topology.sent() - between);
  }
  measured.cpu_us = static_cast<double>(std::clock() - cpu) * 1e6 / CLOCKS_PER_SEC / setting.steps;
  const auto mean = [&](const Traffic& sent) {
    auto numbers = at::empty({4}, at::kDouble);                                              // [4]
    auto* number = numbers.mutable_data_ptr<double>();
    number[0] = static_cast<double>(sent.collectives), number[1] = static_cast<double>(sent.messages);
    number[2] = static_cast<double>(sent.bytes), number[3] = sent.seconds;
    numbers = all_reduce(inner, std::move(numbers)).wait().div(static_cast<double>(ranks * setting.steps));
    number = numbers.mutable_data_ptr<double>();
    return Traffic{std::llround(number[0]), std::llround(number[1]), std::llround(number[2]), number[3]};
  };
  measured.forward = mean(forward_sent);
  measured.step = mean(step_sent);
  std::vector<double> of_rank(work.rows.size());
  for (int rank = 0; rank < ranks; ++rank) {
    const auto of_one = distinct(work, b, {ids[static_cast<std::size_t>(rank)]});
    for (std::size_t t = 0; t < of_rank.size(); ++t) of_rank[t] += of_one[t] / ranks;
  }
  measured.expected = formula(work, setting, ranks, of_rank, distinct(work, b, ids));
  return measured;
}

}  // namespace rookery::benchmarks
