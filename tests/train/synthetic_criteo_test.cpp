// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Training on a click log whose probabilities are known: how near a model comes to the best AUC that there is.

#include <ATen/ops/tensor.h>

#include <string>
#include <utility>
#include <vector>

#include <rookery/data/criteo.hpp>
#include <rookery/data/prefetch.hpp>
#include <rookery/data/synthetic_criteo.hpp>
#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/models/dlrm.hpp>
#include <rookery/rookery.hpp>
#include <rookery/train/evaluate.hpp>

#include "data/files.hpp"
#include "support/test.hpp"

namespace rk = rookery;

namespace {

using Rules = rk::Rules<rk::Adagrad>;

/// The AUC on `test` of a DLRM that saw `train` once; with frozen tables they stay at zero.
double auc_of(const rk::CriteoReader& train, const rk::CriteoReader& test, bool frozen) {
  std::vector<rk::EmbeddingBagConfig<Rules>> tables;
  for (const auto& feature : train.features())
    tables.push_back({.name = feature.name,
                      .num_embeddings = feature.num_embeddings,
                      .embedding_dim = 8,
                      .initial = frozen ? rk::Initial{rk::Zeros{}} : rk::Initial{rk::Normal{.01}},
                      .optimizer = rk::Adagrad{.learning_rate = .02},
                      .frozen = frozen});
  rk::Local local;
  rk::ShardingPolicy<rk::Local> sharding{local, {.seed = 1}};
  auto model = sharding.apply(rk::ModelAndLoss<rk::Dlrm<Rules>, rk::Bce, rk::TableBatch>{{std::move(tables), 13, {32, 8}, {64, 1}}, {}});
  rk::Optimizer step{model, rk::Adam{.learning_rate = .002}};
  for (auto& batch : rk::prefetch(train.epoch())) {
    auto [loss, output] = model(batch);
    loss.backward();
    step();
  }
  return rk::evaluate(model, test.epoch(), rk::MetricSuite{rk::Auc{}}).get<rk::Auc>().value();
}

}  // namespace

TEST_SUITE("train/synthetic_criteo") {
  TEST_CASE("DLRM comes within 0.01 of the planted AUC, and with tables frozen at zero ends at least 0.05 lower") {
    const rk::cases::Folder folder;
    const rk::SyntheticCriteo clicks{{.seed = 7, .most_ids = 200}};
    constexpr std::int64_t training = 250'000;
    clicks.write(folder.path("train.tsv"), 0, training);
    const auto planted = clicks.write(folder.path("test.tsv"), training, 50'000);
    CHECK(planted.id_share >= 0.5);
    rk::Auc best;
    best.update(at::tensor(planted.probabilities), at::tensor(planted.labels).to(at::kDouble));

    const rk::CriteoReader train({.paths = {folder.path("train.tsv")}, .batch_size = 512, .rows = {10'000}});
    const rk::CriteoReader test({.paths = {folder.path("test.tsv")}, .batch_size = 4096, .rows = {10'000}});
    const double reached = auc_of(train, test, false), frozen = auc_of(train, test, true);
    MESSAGE("AUC ", reached, ", the best possible is ", best.value(), ", with frozen tables ", frozen);
    CHECK(reached >= best.value() - 0.01);
    CHECK(reached <= best.value() + 0.002);   // above: a leak
    CHECK(frozen <= reached - 0.05);
    CHECK(frozen > 0.6);                      // the integers still say something
  }
}
