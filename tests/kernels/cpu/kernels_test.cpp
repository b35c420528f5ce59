// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/kernels/cpu/instantiate.hpp>
#include <rookery/kernels/cpu/narrow.hpp>
#include <rookery/kernels/cpu/pooled_lookup.hpp>
#include <rookery/kernels/cpu/rounding.hpp>
#include <rookery/kernels/cpu/row_update.hpp>
#include <rookery/kernels/cpu/transpose.hpp>

#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>

#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <thread>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {

using cases::Draw;

namespace {

using Ids = std::vector<std::int64_t>;

/// Runs `fn` on a thread of its own whose regions have `count` threads.
template <class Fn> void with_threads(int count, Fn&& fn) {
  std::thread([&] {
    at::set_num_threads(count);
    fn();
  }).join();
}
template <class Number> std::vector<Number> drawn(Draw& draw, std::int64_t count) {
  std::vector<Number> values(static_cast<std::size_t>(count));
  for (auto& value : values) value = static_cast<Number>(draw.real(-1, 1));
  return values;
}
template <class Number> constexpr auto dtype_of = std::is_same_v<Number, float> ? at::kFloat : at::kDouble;

void look_up(const kernels::LookupTask& task) { kernels::look_up(std::span(&task, 1)); }
/// Each id of the task's bags alone.
void look_up_rows(kernels::LookupTask task) {
  task.bags = task.bags == 0 ? 0 : task.offsets[task.bags] - task.offsets[0];
  task.offsets = nullptr;
  look_up(task);
}

}  // namespace

TEST_SUITE("kernels/cpu/narrow") {
  TEST_CASE_TEMPLATE("what is stored narrow is loaded rounded to the nearest, and what is not is where it was", Number, float, double) {
    const std::vector<Number> numbers{0, -1.5, 65504, static_cast<Number>(1 + 0x1p-9), static_cast<Number>(1 + 0x1p-12), 1e6};
    const auto count = static_cast<std::int64_t>(numbers.size());
    std::vector<Number> scratch;
    const auto through = [&](c10::ScalarType dtype) {
      std::vector<std::byte> stored(numbers.size() * sizeof(Number));
      kernels::store(numbers.data(), count, dtype, stored.data());
      const auto* loaded = kernels::load(stored.data(), count, dtype, scratch);
      return std::vector<Number>(loaded, loaded + count);
    };
    const auto half = through(at::kHalf), brain = through(at::kBFloat16);
    CHECK(std::vector<Number>(half.begin(), half.begin() + 5) == std::vector<Number>{0, -1.5, 65504, static_cast<Number>(1 + 0x1p-9), 1});
    CHECK(std::isinf(half[5]));
    CHECK(std::vector<Number>(brain.begin(), brain.begin() + 2) == std::vector<Number>{0, -1.5});
    CHECK(brain[3] == 1);
    CHECK(std::abs(brain[5] - 1e6) <= 1e6 * 0x1p-9);
    CHECK(through(dtype_of<Number>) == numbers);
  }

  TEST_CASE("a lookup writes narrow what it computes, and a gradient sum reads it") {
    const std::vector<float> table{1, 2, 10, 20};
    const Ids ids{0, 1, 1}, offsets{0, 2, 3};
    std::vector<c10::Half> out(4);
    kernels::LookupTask task{.dtype = at::kFloat, .weights = table.data(), .stride = 2, .dim = 2, .ids = ids.data(),
                             .offsets = offsets.data(), .bags = 2, .out = out.data(), .out_stride = 2, .out_dtype = at::kHalf};
    look_up(task);
    CHECK(std::vector<float>(out.begin(), out.end()) == std::vector<float>{11, 22, 10, 20});
    out.resize(6);
    task.out = out.data();
    look_up_rows(task);
    CHECK(std::vector<float>(out.begin(), out.end()) == std::vector<float>{1, 2, 10, 20, 10, 20});
    kernels::Occurrences occurrences;
    occurrences.dtype = at::kHalf;
    for (std::size_t i = 0; i < 3; ++i) occurrences.add(ids[i], &out[2 * i], 2);
    std::vector<double> sums(4);
    kernels::sum_row_gradients(occurrences, kernels::transpose(occurrences.rows), at::kDouble, 2, sums.data());
    CHECK(sums == std::vector<double>{2, 4, 40, 80});
  }
}

TEST_SUITE("kernels/cpu/pooled_lookup") {
  TEST_CASE_TEMPLATE("sums bags of strided rows into strided outputs, and writes nothing else", Number, float, double) {
    // Three rows of two columns, three elements apart; the task starts in the middle of a batch: its first id has number 4.
    const std::vector<Number> table{1, 2, 99, 10, 20, 99, 100, 200, 99};
    const Ids ids{2, 0, 0, 1}, offsets{4, 6, 6, 8};
    const std::vector<double> sample_weights{.5, 2, -1, 3};
    std::vector<Number> out(11, -7);
    kernels::LookupTask task{.dtype = dtype_of<Number>,
                             .weights = table.data(),
                             .stride = 3,
                             .dim = 2,
                             .ids = ids.data(),
                             .offsets = offsets.data(),
                             .bags = 3,
                             .out = out.data() + 1,
                             .out_stride = 4};
    look_up(task);
    CHECK(out == std::vector<Number>{-7, 101, 202, -7, -7, 0, 0, -7, -7, 11, 22});
    task.sample_weights = sample_weights.data();
    look_up(task);
    CHECK(out == std::vector<Number>{-7, 52, 104, -7, -7, 0, 0, -7, -7, 29, 58});
    std::vector<Number> rows(16, -7);
    task.out = rows.data();
    look_up_rows(task);
    CHECK(rows == std::vector<Number>{100, 200, -7, -7, 1, 2, -7, -7, 1, 2, -7, -7, 10, 20, -7, -7});
  }
  TEST_CASE("no bags and no ids write nothing") {
    const Ids offsets{0};
    float out = 5;
    const kernels::LookupTask task{.dtype = at::kFloat, .offsets = offsets.data(), .out = &out};
    look_up(task);
    look_up_rows(task);
    CHECK(out == 5);
  }
  TEST_CASE("the result does not depend on the number of threads, to the last bit") {
    Draw draw(1);
    constexpr std::int64_t rows = 500, dim = 63, bags = 3000;
    const auto table = drawn<float>(draw, rows * dim);
    Ids ids, offsets{0};
    for (std::int64_t b = 0; b < bags; ++b) {
      for (auto n = draw.integer(0, 5); n > 0; --n) ids.push_back(draw.integer(0, rows - 1));
      offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
    std::vector<std::vector<float>> pooled, unpooled;
    for (const int threads : {1, 2, 3, 7})
      with_threads(threads, [&] {
        pooled.emplace_back(bags * dim);
        unpooled.emplace_back(ids.size() * dim);
        kernels::LookupTask task{.dtype = at::kFloat,
                                 .weights = table.data(),
                                 .stride = dim,
                                 .dim = dim,
                                 .ids = ids.data(),
                                 .offsets = offsets.data(),
                                 .bags = bags,
                                 .out = pooled.back().data(),
                                 .out_stride = dim};
        look_up(task);
        task.out = unpooled.back().data();
        look_up_rows(task);
      });
    for (const auto& one : pooled) CHECK(one == pooled[0]);
    for (const auto& one : unpooled) CHECK(one == unpooled[0]);
    CHECK(unpooled[0][17 * dim + 3] == table[static_cast<std::size_t>(ids[17] * dim + 3)]);
  }
  TEST_CASE("long bags of .1 are exact to 1e-5, bags of one block are summed as they are, and neither depends on the threads") {
    const std::vector<float> table(3, .1F);
    const std::vector<std::int64_t> lengths{1, 20, 64, 65, 128, 129, 1'000'000};
    Ids offsets{0};
    for (const auto length : lengths) offsets.push_back(offsets.back() + length);
    const Ids ids(static_cast<std::size_t>(offsets.back()), 0);
    const std::vector<double> sample_weights(ids.size(), .1);
    for (const bool weighted : {false, true}) {
      std::vector<std::vector<float>> sums;
      for (const int threads : {1, 2, 5})
        with_threads(threads, [&] {
          sums.emplace_back(3 * lengths.size());
          look_up({.dtype = at::kFloat,
                                  .weights = table.data(),
                                  .stride = 3,
                                  .dim = 3,
                                  .ids = ids.data(),
                                  .offsets = offsets.data(),
                                  .sample_weights = weighted ? sample_weights.data() : nullptr,
                                  .bags = static_cast<std::int64_t>(lengths.size()),
                                  .out = sums.back().data(),
                                  .out_stride = 3});
        });
      for (const auto& one : sums) CHECK(one == sums[0]);
      for (std::size_t bag = 0; bag < lengths.size(); ++bag)
        CHECK(sums[0][3 * bag + 2] == doctest::Approx((weighted ? .01 : .1) * static_cast<double>(lengths[bag])).epsilon(1e-5));
      float plain = 0;
      for (int i = 0; i < 64; ++i) plain += weighted ? .1F * .1F : .1F;
      CHECK(sums[0][3 * 2] == plain);
    }
  }
}

TEST_SUITE("kernels/cpu/transpose") {
  TEST_CASE("rows ascend, and each one's occurrences keep the order they were collected in") {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      Draw draw(seed);
      const auto largest = draw.one_of<std::int64_t>(
          {0, 1, 5, 2047, 2048, 5000, (std::int64_t{1} << 22) - 1, std::int64_t{1} << 22, std::int64_t{1} << 40, INT64_MAX});
      kernels::Occurrences occurrences;
      std::map<std::int64_t, Ids> expected;
      for (std::int64_t i = 0, n = draw.integer(0, 60); i < n; ++i) {
        const auto row = draw.chance(.3) && i > 0 ? occurrences.rows.back() : draw.integer(0, largest);
        occurrences.add(row, nullptr, 1);
        expected[row].push_back(i);
      }
      const auto found = kernels::transpose(occurrences.rows);
      REQUIRE(found.rows.size() == expected.size());
      REQUIRE(found.starts.size() == expected.size() + 1);
      CHECK(found.starts.back() == static_cast<std::int64_t>(occurrences.rows.size()));
      std::size_t u = 0;
      for (const auto& [row, numbers] : expected) {
        CHECK(found.rows[u] == row);
        CHECK(Ids(found.order.begin() + found.starts[u], found.order.begin() + found.starts[u + 1]) == numbers);
        ++u;
      }
    }
  }
  TEST_CASE_TEMPLATE("a row's gradients are summed with their factors, in order", Number, float, double) {
    const std::vector<Number> gradients{1, 2, 10, 20, 100, 200};
    kernels::Occurrences occurrences;
    occurrences.add(7, &gradients[4], 1);
    occurrences.add(3, &gradients[0], .5);
    occurrences.add(7, &gradients[2], -2);
    const auto transposed = kernels::transpose(occurrences.rows);
    std::vector<Number> sums(4, -1);
    kernels::sum_row_gradients(occurrences, transposed, dtype_of<Number>, 2, sums.data());
    CHECK(sums == std::vector<Number>{.5, 1, 80, 160});
  }
  TEST_CASE("a million gradients of .1 on one row are exact to 1e-5") {
    const std::vector<float> gradient(2, .1F);
    kernels::Occurrences occurrences;
    for (int i = 0; i < 1'000'000; ++i) occurrences.add(4, gradient.data(), 1);
    std::vector<float> sums(2, -1);
    kernels::sum_row_gradients(occurrences, kernels::transpose(occurrences.rows), at::kFloat, 2, sums.data());
    for (const float sum : sums) CHECK(sum == doctest::Approx(1e5).epsilon(1e-5));
  }
  TEST_CASE("sums do not depend on the number of threads, to the last bit") {
    Draw draw(2);
    constexpr std::int64_t dim = 33, count = 20'000;
    const auto gradients = drawn<float>(draw, 500 * dim);
    kernels::Occurrences occurrences;
    for (std::int64_t i = 0; i < count; ++i)
      occurrences.add(draw.integer(0, 2999), &gradients[static_cast<std::size_t>(draw.integer(0, 499) * dim)], draw.real(-1, 1));
    const auto transposed = kernels::transpose(occurrences.rows);
    std::vector<std::vector<float>> sums;
    for (const int threads : {1, 2, 5})
      with_threads(threads, [&] {
        sums.emplace_back(transposed.rows.size() * dim);
        kernels::sum_row_gradients(occurrences, transposed, at::kFloat, dim, sums.back().data());
      });
    for (const auto& one : sums) CHECK(one == sums[0]);
  }
}

TEST_SUITE("kernels/cpu/row_update") {
  TEST_CASE("each named row is updated once with its own state, and no other row") {
    // Four rows of two columns, three elements apart, the state of a row right behind it.
    std::vector<double> table{1, 2, .5, 1, 2, .5, 1, 2, .5, 1, 2, .5};
    const Ids rows{1, 3};
    const std::vector<double> gradients{3, 4, 0, 0};
    const RowwiseAdagrad rule{.learning_rate = .1, .eps = 0};
    kernels::RowTask task{.dtype = at::kDouble, .weights = table.data(), .stride = 3, .dim = 2, .full_dim = 2, .state = {{table.data() + 2, 3, 1}}};
    kernels::set_rule<RowwiseAdagrad, double>(task, rule);
    std::vector<double> sums(2, -1);
    kernels::sum_rows(task, rows, gradients.data(), sums.data());
    CHECK(sums == std::vector<double>{25, 0});
    kernels::update_rows(task, rows, gradients.data(), sums.data());
    const double rate = .1 / std::sqrt(13.);
    const std::vector<double> expected{1, 2, .5, 1 - rate * 3, 2 - rate * 4, 13, 1, 2, .5, 1, 2, .5};
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(table[i] == doctest::Approx(expected[i]).epsilon(1e-14));
  }
  TEST_CASE("the update does not depend on the number of threads, to the last bit") {
    constexpr std::int64_t rows = 4000, dim = 17;
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 6})
      with_threads(threads, [&] {
        Draw draw(3);
        auto weights = drawn<float>(draw, rows * dim);
        const auto gradients = drawn<float>(draw, rows / 2 * dim);
        std::vector<float> first(rows * dim), second(rows * dim);
        Ids named;
        for (std::int64_t row = 0; row < rows; row += 2) named.push_back(row);
        const Adam rule;
        kernels::RowTask task{.dtype = at::kFloat, .weights = weights.data(), .stride = dim, .dim = dim, .full_dim = dim,
                              .state = {{first.data(), dim, dim}, {second.data(), dim, dim}}};
        kernels::set_rule<Adam, float>(task, rule);
        for (task.context.step = 1; task.context.step <= 3; ++task.context.step) kernels::update_rows(task, named, gradients.data(), nullptr);
        weights.insert(weights.end(), first.begin(), first.end());
        weights.insert(weights.end(), second.begin(), second.end());
        results.push_back(std::move(weights));
      });
    for (const auto& one : results) CHECK(one == results[0]);
  }
  TEST_CASE_TEMPLATE("a narrow row is widened for the rule and rounded back", Narrow, c10::Half, c10::BFloat16) {
    std::vector<Narrow> table{Narrow(1.f), Narrow(2.f), Narrow(3.f), Narrow(4.f)};
    const Ids rows{1};
    const std::vector<float> gradients{1, -2};
    const Sgd rule{.learning_rate = .25};
    kernels::RowTask task{.dtype = c10::CppTypeToScalarType<Narrow>::value, .weights = table.data(), .stride = 2, .dim = 2, .full_dim = 2};
    kernels::set_rule<Sgd, float>(task, rule);
    kernels::update_rows(task, rows, gradients.data(), nullptr);
    CHECK(static_cast<float>(table[1]) == 2);
    CHECK(static_cast<float>(table[2]) == 2.75);
    CHECK(static_cast<float>(table[3]) == 4.5);
  }
}

TEST_SUITE("kernels/cpu/rounding") {
  TEST_CASE_TEMPLATE("stochastic rounding gives a neighbour, and the value in the mean", Narrow, c10::Half, c10::BFloat16) {
    constexpr auto dtype = c10::CppTypeToScalarType<Narrow>::value;
    constexpr std::int64_t draws = 40000;
    for (const float value : {1.0003f, -3.1416f, 1e-3f, 5e-7f, -60000.3f, 0.f, 1.f}) {
      CAPTURE(value);
      const std::vector<float> wide(draws, value);
      std::vector<Narrow> rounded(draws);
      kernels::store_row(dtype, wide.data(), draws, {.stochastic = true, .key = 7}, 0, rounded.data());
      double sum = 0, lowest = 1e30, highest = -1e30;
      for (const auto one : rounded) {
        const double number = static_cast<float>(one);
        sum += number;
        lowest = std::min(lowest, number);
        highest = std::max(highest, number);
      }
      CHECK(lowest <= value);
      CHECK(highest >= value);
      const double step = highest - lowest;
      CHECK(std::abs(sum / draws - static_cast<double>(value)) <= 4 * step * .5 / std::sqrt(double(draws)));   // four deviations
      CHECK(step <= 2 * std::abs(static_cast<double>(value)) * (dtype == at::kHalf ? 0x1p-11 : 0x1p-8) + 0x1p-24);
      std::vector<Narrow> again(draws);
      kernels::store_row(dtype, wide.data() + 100, draws - 100, {.stochastic = true, .key = 7}, 100, again.data());
      CHECK(std::equal(again.begin(), again.end() - 100, rounded.begin() + 100, [](Narrow a, Narrow b) { return a.x == b.x; }));
      kernels::store_row(dtype, wide.data(), draws, {.stochastic = true, .key = 8}, 0, again.data());
      const bool differs = !std::equal(again.begin(), again.end(), rounded.begin(), [](Narrow a, Narrow b) { return a.x == b.x; });
      CHECK(differs == (step > 0));
    }
  }
  TEST_CASE_TEMPLATE("what has no neighbour above stays finite; NaN and infinities stay; the nearest is torch's", Narrow, c10::Half,
                     c10::BFloat16) {
    constexpr auto dtype = c10::CppTypeToScalarType<Narrow>::value;
    const float infinite = std::numeric_limits<float>::infinity();
    const std::vector<float> odd{std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), infinite, -infinite, std::nanf("")};
    std::vector<Narrow> rounded(odd.size());
    for (std::uint64_t key = 0; key < 50; ++key) {
      kernels::store_row(dtype, odd.data(), 5, {.stochastic = true, .key = key}, 0, rounded.data());
      CHECK(std::isfinite(static_cast<float>(rounded[0])));
      CHECK(std::isfinite(static_cast<float>(rounded[1])));
      CHECK(static_cast<float>(rounded[2]) == infinite);
      CHECK(static_cast<float>(rounded[3]) == -infinite);
      CHECK(std::isnan(static_cast<float>(rounded[4])));
    }
    kernels::store_row(dtype, odd.data(), 5, {}, 0, rounded.data());
    CHECK(std::isfinite(static_cast<float>(rounded[0])));
    CHECK(static_cast<float>(rounded[1]) == -static_cast<float>(rounded[0]));
    CHECK(static_cast<float>(rounded[3]) == -infinite);
    CHECK(std::isnan(static_cast<float>(rounded[4])));
    const std::vector<float> values{.1f, -7.77f, 3e-6f, 1234.5f};
    kernels::store_row(dtype, values.data(), 4, {}, 0, rounded.data());
    std::vector<float> back(4);
    kernels::load_row(dtype, rounded.data(), 4, back.data());
    const auto expected = at::tensor(values, at::kFloat).to(dtype).to(at::kFloat);
    for (std::int64_t i = 0; i < 4; ++i) CHECK(back[static_cast<std::size_t>(i)] == expected[i].template item<float>());
  }
}

}  // namespace rookery
