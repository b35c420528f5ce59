// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Writes a synthetic click log in Criteo's format, whose true probabilities are known, and says the best AUC that a model can reach on its
// end. generated.toml describes the file to train_dlrm.
//
//   generate_criteo clicks.tsv 200000 50000

#include <ATen/ops/tensor.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>

#include <rookery/core/text.hpp>
#include <rookery/data/synthetic_criteo.hpp>
#include <rookery/metrics/auc.hpp>
#include <rookery/topology/one_line.hpp>

namespace rk = rookery;

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "generate_criteo FILE TRAINING_ROWS TEST_ROWS\n");
    return 2;
  }
  const std::string path = argv[1];
  const std::int64_t training = std::atoll(argv[2]), test = std::atoll(argv[3]);
  try {
    rk::check<rk::ConfigError>(training >= 0 && test > 0, argv[2], " training and ", argv[3],
                               " test rows; they must be whole numbers, the second above 0");
    const rk::SyntheticCriteo clicks{{.most_ids = 200}};
    clicks.write(path, 0, training + test);
    const auto end = clicks.write(path + ".end", training, test);
    std::filesystem::remove(path + ".end");
    rk::Auc best;
    best.update(at::tensor(end.probabilities), at::tensor(end.labels).to(at::kDouble));
    fmt::print("{:.4f}\n", best.value());
  } catch (const std::exception& error) {
    fmt::print(stderr, "generate_criteo: {}\n", rk::one_line(error));
    return 1;
  }
}
