// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/concepts/metric.hpp>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/calibration.hpp>
#include <rookery/metrics/log_loss.hpp>
#include <rookery/metrics/normalized_entropy.hpp>
#include <rookery/metrics/per_group.hpp>
#include <rookery/metrics/per_task.hpp>
#include <rookery/metrics/rce.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/metrics/throughput.hpp>
#include <rookery/metrics/windowed.hpp>

#include <ATen/ops/ones.h>

#include "support/test.hpp"

namespace rookery {
namespace {

/// The least type that models the concept.
struct Archetype {
  std::string_view name() const { return "archetype"; }
  void update(const at::Tensor&, const at::Tensor&, const at::Tensor&) {}
  double value() const { return 0; }
  void reset() {}
  at::Tensor pack() const { return {}; }
  void merge(const at::Tensor&) {}
};

struct WithoutUpdate {
  std::string_view name() const { return "metric"; }
  double value() const { return 0; }
  void reset() {}
  at::Tensor pack() const { return {}; }
  void merge(const at::Tensor&) {}
};
struct TwoColumns : WithoutUpdate {
  void update(const at::Tensor&, const at::Tensor&) {}
};
struct TensorValue : Archetype {
  at::Tensor value() const { return {}; }
};
struct MutableValue : Archetype {
  double value() { return 0; }
};
struct WithoutReset {
  at::Tensor pack() const { return {}; }
  void merge(const at::Tensor&) {}
};
struct MoveOnly : Archetype {
  MoveOnly(MoveOnly&&) = default;
  MoveOnly& operator=(MoveOnly&&) = default;
};

using concepts::Measure;
using concepts::Mergeable;
using concepts::Metric;

static_assert(Metric<Archetype> && Metric<Auc> && Metric<Calibration> && Metric<LogLoss> && Metric<NormalizedEntropy> && Metric<Rce>);
static_assert(Metric<Throughput>);
static_assert(!Metric<PerGroup<Auc>> && Measure<PerGroup<Auc>> && Metric<GroupMean<Auc>> && Measure<MetricSuite<Auc>>);
static_assert(Metric<Windowed<Auc>> && !Metric<Windowed<MetricSuite<Auc>>> && Measure<Windowed<MetricSuite<Auc>>>);
static_assert(Measure<PerTask<PerGroup<Windowed<Archetype>>>> && Measure<Archetype> && !Measure<WithoutUpdate> && !Measure<MoveOnly>);
static_assert(!Metric<WithoutUpdate> && !Metric<TwoColumns> && !Metric<TensorValue> && !Metric<MutableValue> && !Metric<MoveOnly>);
static_assert(!Metric<at::Tensor> && !Metric<int>);
static_assert(Mergeable<MetricSuite<Archetype, Auc>> && !Metric<MetricSuite<Archetype, Auc>>);
static_assert(!Mergeable<WithoutReset> && !Mergeable<MoveOnly>);

}  // namespace

template class MetricSuite<Archetype>;   // asks no more than the concept does

TEST_SUITE("concepts/metric") {
  TEST_CASE("a metric of the user's own works in a suite with no more than the concept's members") {
    MetricSuite metrics{Archetype{}};
    metrics.reset();
    CHECK(metrics.values().front().name == "archetype");
  }
  TEST_CASE("and in every wrapper") {
    PerTask metrics{{"click"}, PerGroup{Windowed{Archetype{}}}};
    metrics.update(at::ones({2, 1}), at::ones({2, 1}), {}, at::ones({2}, at::kLong));
    CHECK(metrics.values().front().name == "click/group_1/window_archetype");
  }
}

}  // namespace rookery
