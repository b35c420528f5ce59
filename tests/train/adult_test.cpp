// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Training on UCI Adult as a click problem: will this person earn more than 50,000 dollars a year? Twelve one-hot columns.
// The bars were taken from PyTorch with the same settings; they lie just under its worst of five seeds.

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include <rookery/models/factorization_machine.hpp>
#include <rookery/models/logistic_regression.hpp>

#include "../../examples/applications/schema_toml.hpp"
#include "train/trained.hpp"
#include "support/test.hpp"

namespace rk = rookery;
using namespace rookery::cases;

namespace {

/// The table, read once; null, with a message, where the file is not.
std::shared_ptr<const rk::Table> adult() {
  const char* named = std::getenv("ROOKERY_ADULT");
  const std::string folder = named ? named : ROOKERY_SOURCE_DIR "/../shared/data/adult";
  if (!std::filesystem::exists(folder + "/adult.data")) {
    MESSAGE("skipped: ROOKERY_ADULT does not name the folder of adult.data");
    return nullptr;
  }
  static const auto table = rk::read_table(examples::load_schema(ROOKERY_SOURCE_DIR "/examples/applications/adult.toml", folder));
  return table;
}

}  // namespace

TEST_SUITE("train/adult") {
  TEST_CASE("the split is that of the bars: 6,510 of 32,561 rows are held out, and 24.1 per cent earn more") {
    const auto table = adult();
    if (!table) return;
    const rk::TableReader reader{table, {.batch_size = 256}};
    std::int64_t train = 0, test = 0;
    double positives = 0;
    for (const auto part : {rk::Part::train, rk::Part::test})
      for (const auto& batch : reader.epoch(part)) {
        (part == rk::Part::train ? train : test) += batch.size();
        positives += batch.labels.sum().item<double>();
      }
    CHECK(test == 6510);
    CHECK(train + test == 32561);
    CHECK(positives == 7841);
    CHECK(reader.features().size() == 12);
  }

  TEST_CASE("logistic regression reaches AUC 0.918") {
    if (!adult()) return;
    const auto make = [](const auto& reader) { return rk::LogisticRegression<TrainedRules>(tables(reader, 1, .2, rk::Zeros{})); };
    const auto [auc, ne] = quality(adult(), make, 12);
    CHECK(auc >= 0.918);
    CHECK(auc <= 0.93);                  // above: a leak
    CHECK(ne <= 0.54);
  }

  TEST_CASE("factorization machine reaches AUC 0.9185") {
    if (!adult()) return;
    const auto make = [](const auto& reader) {
      return rk::FactorizationMachine<TrainedRules>(tables(reader, 1, .1, rk::Zeros{}), tables(reader, 16, .05, rk::Normal{.01}));
    };
    const auto [auc, ne] = quality(adult(), make, 7);
    CHECK(auc >= 0.9185);
    CHECK(auc <= 0.93);
    CHECK(ne <= 0.54);
  }
}
