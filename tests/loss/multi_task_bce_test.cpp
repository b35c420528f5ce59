// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/loss/multi_task_bce.hpp>
#include <rookery/loss/rows.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <rookery/data/table_reader.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/global_mean.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/sparse/batch.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "data/files.hpp"
#include "modules/alone.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

struct Output {
  at::Tensor logits;                                         // [B, tasks]
};
struct Batch {
  at::Tensor labels, weights;                                // [B, columns]
  std::int64_t size() const { return labels.size(0); }
  static constexpr auto members() { return rookery::members("labels", &Batch::labels, "weights", &Batch::weights); }
};
/// Logits that are parameters, a row for each row of the batch.
struct Fixed {
  Parameter shift{{2}, Zeros{}, 0, at::kDouble};
  static constexpr auto members() { return rookery::members("shift", &Fixed::shift); }
  Output forward(const Batch& batch) { return {batch.labels.mul(2).add(shift.tensor())}; }
};

at::Tensor rows_of(const std::vector<double>& values) { return at::tensor(values, at::kDouble).view({3, -1}); }
double number(const at::Tensor& tensor) { return tensor.item<double>(); }

}  // namespace

TEST_SUITE("loss/multi_task_bce") {
  const auto logits = rows_of({.5, -1, 2, 0, -.3, 1.5}), labels = rows_of({1, 0, 0, 1, 1, 1}), weights = rows_of({1, 2, 1, .5, 3, 1});
  const std::vector<std::string> columns{"a", "b"};

  TEST_CASE("4.2 Multi-task loss: each task, and their mean and sum") {
    const auto check_loss = [&](const MultiTaskBce& loss, const Batch& batch, double a, double b, double all) {
      const auto sums = loss.per_task(Output{logits}, batch);
      CHECK(std::abs(number(sums[0]) / 3 - a) < 1e-6);
      CHECK(std::abs(number(sums[1]) / 3 - b) < 1e-6);
      CHECK(std::abs(number(loss(Output{logits}, batch)) / number(loss.normaliser(batch)) - all) < 1e-6);
    };
    check_loss({{{"a"}, {"b"}}, columns}, {labels, {}}, 1.1517868, .4026074, .7771971);
    check_loss({{{"a"}, {"b"}}, columns}, {labels, weights}, 1.7213570, .3915034, 1.0564302);
    check_loss({{{.name = "a", .pos_weight = 2}, {.name = "b", .pos_weight = .5}}, columns}, {labels, weights},
               2.7337379, .3001722, 1.5169551);
    check_loss({{{"a"}, {"b"}}, columns, {.over_tasks = OverTasks::sum}}, {labels, weights}, 1.7213570, .3915034, 2.1128604);
    check_loss({{{.name = "a", .weight = 2}, {.name = "b", .weight = .5}}, columns}, {labels, {}},
               2 * 1.1517868, .5 * .4026074, 1.1517868 + .25 * .4026074);
    // Other ways to put tasks together are the program's own, of the sums: 4.2 has those of the second line.
    const auto weighted = MultiTaskBce({{"a"}, {"b"}}, columns).per_task(Output{logits}, Batch{labels, weights});           // [2]
    CHECK(gap(weighted, {5.1640711, 1.1745102}) < 1e-5);
    CHECK(std::abs(number(weighted.mean()) - 3.1692905) < 1e-5);
    const auto means = weighted.div(3);                                                     // [2]
    CHECK(std::abs(number(means.min()) - .3915034) < 1e-6);
    CHECK(std::abs(number(means.max()) - 1.7213570) < 1e-6);
    CHECK(std::abs(number(means.median()) - .3915034) < 1e-6);                              // of two, the lower one
    const MultiTaskBce by_weights({{"a"}, {"b"}}, columns, {.divide_by = DivideBy::weights});
    CHECK(number(by_weights.normaliser(Batch{labels, weights})) == 8.5);
  }

  TEST_CASE("D23 tasks are bound to label columns by name: order does not matter, columns may be left over") {
    const auto four = rows_of({7, 0, 7, 1, 7, 1, 7, 0, 7, 1, 7, 1}), of_four = rows_of({0, 2, 0, 1, 0, .5, 0, 1, 0, 1, 0, 3});
    const MultiTaskBce loss({{.name = "a", .pos_weight = 2}, {.name = "b", .pos_weight = .5}}, {"bookmarked", "b", "shared", "a"});
    const MultiTaskBce plain({{.name = "a", .pos_weight = 2}, {.name = "b", .pos_weight = .5}}, columns);
    CHECK(number(loss(Output{logits}, Batch{four, of_four})) == number(plain(Output{logits}, Batch{labels, weights})));
    CHECK(number(loss.normaliser(Batch{four, of_four})) == 6);
    CHECK(loss.tasks()[1].name == "b");
  }

  TEST_CASE("D23 a mismatch is an error when the loss is made") {
    CHECK_THROWS_WITH_AS(MultiTaskBce({{"a"}, {"c"}}, columns), "MultiTaskBce: task 'c' has no label column; there are [a, b]",
                         ConfigError);
    CHECK_THROWS_WITH_AS(MultiTaskBce({{"a"}, {"a"}}, columns), "MultiTaskBce: task 'a' is given twice", ConfigError);
    CHECK_THROWS_WITH_AS(MultiTaskBce({{"a"}}, {"a", "b", "a"}), "MultiTaskBce: label column 'a' is given twice", ConfigError);
    CHECK_THROWS_WITH_AS(MultiTaskBce({}, columns), "MultiTaskBce: no tasks", ConfigError);
    CHECK_THROWS_WITH_AS(MultiTaskBce({{.name = "a", .pos_weight = -1}}, columns),
                         "MultiTaskBce: task 'a' has weight 1 and pos_weight -1; neither may be negative", ConfigError);
    CHECK_THROWS_AS(MultiTaskBce({{.name = "a", .weight = NAN}}, columns), ConfigError);
  }

  TEST_CASE("a weight for each row holds for all its tasks: batches of a TableReader with several labels and a weight column") {
    const Folder folder;
    const auto table = read_table({.file = {.paths = {folder.write("t.csv", "like,unused,click,w,x\n1,1,0,2,0\n0,1,1,.5,1\n1,0,1,0,2\n")}},
                                   .labels = {{.column = "like"}, {.column = "unused"}, {.column = "click"}},
                                   .weight = "w",
                                   .dense = {{.column = "x"}},
                                   .split = SplitByFraction{.train = 1.0}});
    const TableReader reader(table, {.batch_size = 3});
    const MultiTaskBce loss({{.name = "click"}, {.name = "like", .pos_weight = 2}}, reader.label_names(),
                            {.divide_by = DivideBy::weights});
    for (const TableBatch& batch : reader.epoch(Part::train)) {
      REQUIRE(batch.weights.sizes() == at::IntArrayRef({3}));
      const Batch same{batch.labels, batch.weights.unsqueeze(1).expand({3, 3})};
      const Output output{batch.labels.narrow(1, 1, 2).mul(.7).sub(.2)};
      CHECK(at::equal(loss.per_task(output, batch), loss.per_task(output, same)));
      CHECK(number(loss(output, batch)) > 0);
      CHECK(number(loss.normaliser(batch)) == 5);                                            // 2.5 for each task
    }
  }

  TEST_CASE("B8 a weight that is negative or not finite is refused with its row and value, where a task uses it") {
    const MultiTaskBce loss({{.name = "b"}}, columns, {.divide_by = DivideBy::weights});
    const Output output{logits.narrow(1, 0, 1)};
    const Batch wrong{labels, rows_of({1, 2, 1, -.5, 3, 1})}, unused{labels, rows_of({1, 2, -.5, .5, NAN, 1})};
    const auto* sentence = "MultiTaskBce: weight -0.5 of row 1 must be finite and not negative";
    CHECK_THROWS_WITH_AS(loss(output, wrong), sentence, DataError);
    CHECK_THROWS_WITH_AS(loss.normaliser(wrong), sentence, DataError);
    CHECK(number(loss(output, unused)) > 0);
    CHECK(number(loss.normaliser(unused)) == 3.5);
  }

  TEST_CASE("gradients agree with differences") {
    const MultiTaskBce loss({{.name = "b", .pos_weight = 2}, {.name = "a", .pos_weight = .5, .weight = 3}}, columns);
    CHECK(gradient_gap(logits, [&](const at::Tensor& x) { return loss(Output{x}, Batch{labels, weights}); }) < 1e-8);
  }

  TEST_CASE("in a model the mean is that of the global batch, however it is cut") {
    const auto after_a_step = [&](auto& topology, std::int64_t begin, std::int64_t end) {
      const ShardingPolicy<std::remove_cvref_t<decltype(topology)>> sharding(topology);
      auto model = sharding.apply(ModelAndLoss<Fixed, MultiTaskBce, Batch>{{}, {{{.name = "a", .pos_weight = 2}, {.name = "b"}}, columns}});
      Optimizer step(model, Sgd{.learning_rate = 1});
      const auto batch = slice(Batch{labels, weights}, begin, end);
      const auto loss = model(batch).loss;
      const double mean = global_mean(model, loss, batch);
      loss.backward();
      step();
      return std::pair{mean, model.model().shift.tensor().detach().clone()};
    };
    Local local;
    const auto expected = after_a_step(local, 0, 3);
    Threads::run(2, [&](Threads topology) {
      for (const std::int64_t cut : {0, 1, 3}) {
        const auto [mean, shift] = topology.rank() == 0 ? after_a_step(topology, 0, cut) : after_a_step(topology, cut, 3);
        CHECK(std::abs(mean - expected.first) < 1e-12);
        CHECK(shift.sub(expected.second).abs().max().item<double>() < 1e-12);
      }
    });
  }

  TEST_CASE("what does not fit is refused in one sentence") {
    const MultiTaskBce loss({{"a"}, {"b"}}, columns);
    CHECK_THROWS_WITH_AS(loss(Output{at::zeros({3, 3})}, Batch{labels, {}}),
                         "MultiTaskBce: logits have shape [3, 3]; they must be [B, 2], a column for each task", ShapeError);
    CHECK_THROWS_WITH_AS(loss(Output{logits}, Batch{at::zeros({3, 3}), {}}),
                         "MultiTaskBce: labels have shape [3, 3]; they must be [B, 2], a column for each name", ShapeError);
    CHECK_THROWS_WITH_AS(loss(Output{logits}, Batch{at::zeros({2, 2}), {}}), "MultiTaskBce: logits have shape [3, 2] and labels [2, 2]",
                         ShapeError);
    CHECK_THROWS_WITH_AS(loss(Output{logits}, Batch{rows_of({1, 0, 0, 1, 1, 2}), {}}),
                         "MultiTaskBce: label 2 of row 2 is outside [0, 1]; a label is 0, 1 or a probability",
                         DataError);
    CHECK_THROWS_AS(MultiTaskBce({{"a"}}, columns, {.divide_by = DivideBy::weights}).normaliser(Batch{labels, {}}), ConfigError);
    CHECK(number(loss(Output{at::zeros({0, 2})}, Batch{at::zeros({0, 2}), {}})) == 0);
    CHECK(number(loss.normaliser(Batch{at::zeros({0, 2}), {}})) == 0);
  }
}

}  // namespace rookery
