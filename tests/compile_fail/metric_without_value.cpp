// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: MetricSuite<Metrics\.\.\.>: write `std::string_view name\(\) const` and `double value\(\) const` on each metric; see docs/concepts\.md#metric
#include <ATen/ops/empty.h>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/merge.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/topology/local.hpp>

struct Rows {
  double count = 0;

  static constexpr std::string_view name() { return "rows"; }
  void update(const at::Tensor& predictions, const at::Tensor&, const at::Tensor&) { count += static_cast<double>(predictions.numel()); }
#ifndef EXPECT_FAIL
  double value() const { return count; }
#endif
  void reset() { count = 0; }
  at::Tensor pack() const { return at::empty({1}, at::kDouble).fill_(count); }
  void merge(const at::Tensor& packed) { count += packed.item<double>(); }
};

void log(rookery::Local topology, const at::Tensor& predictions, const at::Tensor& labels) {
  rookery::MetricSuite metrics{rookery::Auc{}, Rows{}};
  metrics.update(predictions, labels);
  for (const auto& [name, value] : merged(metrics, topology).values()) (void)name, (void)value;
}
