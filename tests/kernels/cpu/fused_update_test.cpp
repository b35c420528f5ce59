// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/kernels/cpu/bag_sum.hpp>
#include <rookery/kernels/cpu/fused_update.hpp>
#include <rookery/kernels/cpu/largest.hpp>
#include <rookery/kernels/cpu/pooled_lookup.hpp>
#include <rookery/kernels/cpu/row_ahead.hpp>
#include <rookery/kernels/cpu/transpose.hpp>
#include <rookery/kernels/cpu/vector.hpp>

#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {

using cases::Draw;

namespace {

using Ids = std::vector<std::int64_t>;

/// Runs `fn` with each instruction set that the machine has.
template <class Fn> void with_instruction_sets(Fn&& fn) {
  const auto best = kernels::instruction_set();
  for (const auto set : {kernels::InstructionSet::plain, kernels::InstructionSet::avx2, kernels::InstructionSet::avx512}) {
    if (set > best) break;
    kernels::instruction_set() = set;
    fn();
  }
  kernels::instruction_set() = best;
}
/// Runs `fn` on a thread of its own whose regions have `count` threads.
template <class Fn> void with_threads(int count, Fn&& fn) {
  std::thread([&] {
    at::set_num_threads(count);
    fn();
  }).join();
}

struct Bags {
  Ids ids, offsets{0};
  std::vector<double> weights;
};
Bags draw_bags(Draw& draw, std::int64_t bags, std::int64_t rows, std::int64_t longest) {
  Bags drawn;
  for (std::int64_t b = 0; b < bags; ++b) {
    for (auto n = draw.chance(.02) ? 150 : draw.integer(0, longest); n > 0; --n) {
      drawn.ids.push_back(draw.chance(.3) ? 0 : draw.integer(0, rows - 1));
      drawn.weights.push_back(draw.real(-1, 1));
    }
    drawn.offsets.push_back(static_cast<std::int64_t>(drawn.ids.size()));
  }
  return drawn;
}

/// Sums as a lookup has them: in float32, in blocks of 64 rows.
template <class Weight>
std::vector<float> plain_sums(const std::vector<Weight>& table, std::int64_t stride, std::int64_t dim, const Bags& bags, bool weighted) {
  std::vector<float> out;
  for (std::size_t b = 0; b + 1 < bags.offsets.size(); ++b)
    for (std::int64_t d = 0; d < dim; ++d) {
      const auto begin = bags.offsets[b], end = bags.offsets[b + 1];
      double whole = 0;
      volatile float sum = 0;                                // each product and each sum is rounded
      for (auto i = begin; i < end; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const auto factor = weighted ? static_cast<float>(bags.weights[at]) : 1.F;
        const volatile float product = factor * static_cast<float>(table[static_cast<std::size_t>(bags.ids[at] * stride + d)]);
        sum = sum + product;
        if (end - begin > 64 && ((i - begin) % 64 == 63 || i + 1 == end)) {
          whole += static_cast<double>(sum);
          sum = 0;
        }
      }
      out.push_back(end - begin > 64 ? static_cast<float>(whole) : sum);
    }
  return out;
}

}  // namespace

TEST_SUITE("kernels/cpu/bag_sum") {
  TEST_CASE_TEMPLATE("every width, instruction set and dtype sums to the bit what plain loops sum", Weight, float, c10::Half, c10::BFloat16) {
    Draw draw(5);
    constexpr std::int64_t rows = 40, bags = 30;
    for (const std::int64_t dim : {1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 31, 32, 48, 64, 96, 100, 128, 129, 192, 256, 300}) {
      CAPTURE(dim);
      const auto stride = dim + draw.integer(0, 3);
      std::vector<Weight> table(static_cast<std::size_t>(rows * stride));
      for (auto& one : table) one = static_cast<Weight>(static_cast<float>(draw.chance(.05) ? draw.real(-1e-7, 1e-7) : draw.real(-3, 3)));
      const auto drawn = draw_bags(draw, bags, rows, 6);
      for (const bool weighted : {false, true}) {
        const auto expected = plain_sums(table, stride, dim, drawn, weighted);
        with_instruction_sets([&] {
          std::vector<float> out(expected.size(), -7);
          const kernels::LookupTask task{.dtype = c10::CppTypeToScalarType<Weight>::value,
                                         .weights = table.data(),
                                         .stride = stride,
                                         .dim = dim,
                                         .ids = drawn.ids.data(),
                                         .offsets = drawn.offsets.data(),
                                         .sample_weights = weighted ? drawn.weights.data() : nullptr,
                                         .bags = bags,
                                         .out = out.data(),
                                         .out_stride = dim};
          kernels::look_up(std::span(&task, 1));
          CHECK(out == expected);
        });
      }
    }
  }
  TEST_CASE("a row alone keeps its bits, of zeros and of what is not finite") {
    const std::vector<float> table{-0.F, 0.F, std::numeric_limits<float>::infinity(), 0x1p-149F};
    const Ids ids{0};
    with_instruction_sets([&] {
      std::vector<float> out(4, -7);
      const kernels::LookupTask task{.dtype = at::kFloat, .weights = table.data(), .stride = 4, .dim = 4, .ids = ids.data(), .bags = 1,
                                     .out = out.data(), .out_stride = 4};
      kernels::look_up(std::span(&task, 1));
      CHECK(out == table);
      CHECK(std::signbit(out[0]));
      CHECK(!std::signbit(out[1]));
    });
  }
  TEST_CASE("every float16 is read as the number that it is") {
    std::vector<c10::Half> table;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) table.push_back({static_cast<std::uint16_t>(bits), c10::Half::from_bits()});
    const Ids ids{0};
    with_instruction_sets([&] {
      std::vector<float> out(table.size());
      const kernels::LookupTask task{.dtype = at::kHalf, .weights = table.data(), .stride = 65536, .dim = 65536, .ids = ids.data(), .bags = 1,
                                     .out = out.data(), .out_stride = 65536};
      kernels::look_up(std::span(&task, 1));
      bool same = true;
      for (std::size_t i = 0; i < table.size(); ++i) {
        const auto number = static_cast<float>(table[i]);
        same = same && (std::isnan(number) ? std::isnan(out[i]) : out[i] == number);
      }
      CHECK(same);
    });
  }
}

TEST_SUITE("kernels/cpu/row_ahead") {
  TEST_CASE("what is asked of memory ahead of time changes no sum, across bags, tables and none at all") {
    Draw draw(8);
    std::vector<float> table(3000 * 16);
    for (auto& one : table) one = static_cast<float>(draw.real(-1, 1));
    const auto first = draw_bags(draw, 40, 3000, 3), second = draw_bags(draw, 0, 1, 1), third = draw_bags(draw, 70, 3000, 3);
    const auto before = kernels::prefetch_policy();
    std::vector<std::vector<float>> sums;
    for (const std::int64_t bytes : {0, 64, 4096, 1 << 20}) {
      kernels::prefetch_policy() = {.bytes = bytes, .cached = 0};
      auto& out = sums.emplace_back(110 * 16);
      std::vector<kernels::LookupTask> tasks;
      std::int64_t bag = 0;
      for (const auto* bags : {&first, &second, &third}) {
        const auto count = static_cast<std::int64_t>(bags->offsets.size()) - 1;
        tasks.push_back({.dtype = at::kFloat, .weights = table.data(), .stride = 16, .dim = 16, .ids = bags->ids.data(),
                         .offsets = bags->offsets.data(), .bags = count, .out = out.data() + bag * 16, .out_stride = 16, .rows = 3000});
        bag += count;
      }
      kernels::look_up(tasks);
    }
    kernels::prefetch_policy() = before;
    for (const auto& one : sums) CHECK(one == sums[0]);
    CHECK(sums[0] != std::vector<float>(110 * 16));
  }
}

TEST_SUITE("kernels/cpu/largest") {
  TEST_CASE("the largest magnitude of strided vectors, and infinity where one is not finite") {
    with_instruction_sets([] {
      std::vector<float> numbers(40, 1);
      numbers[3] = -5;
      numbers[19] = 100;                                     // in no vector
      const auto largest = [&] {
        return kernels::largest_magnitude(at::kFloat, reinterpret_cast<const std::byte*>(numbers.data()), 20 * 4, 2, 17);
      };
      CHECK(largest() == 5);
      numbers[36] = -7;                                      // behind the last whole vector of eight
      CHECK(largest() == 7);
      for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN()}) {
        numbers[5] = bad;
        CHECK(std::isinf(largest()));
      }
    });
    const std::vector<double> doubles{1e300, -2e300};
    CHECK(kernels::largest_magnitude(at::kDouble, reinterpret_cast<const std::byte*>(doubles.data()), 8, 2, 1) == 2e300);
    const std::vector<c10::BFloat16> narrow{1.F, -1024.F};
    CHECK(kernels::largest_magnitude(at::kBFloat16, reinterpret_cast<const std::byte*>(narrow.data()), 4, 1, 2) == 1024);
  }
}

TEST_SUITE("kernels/cpu/fused_update") {
  TEST_CASE("numbers are sorted by row, of few and of many, and those of a row stay in order") {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      Draw draw(seed);
      const int bits = static_cast<int>(draw.integer(1, 32));
      const auto count = static_cast<std::size_t>(draw.one_of<std::int64_t>({0, 1, 2, 24, 25, 300, 1023, 1024, 5000}));
      std::vector<std::uint64_t> keys(count), beside(count);
      for (std::size_t i = 0; i < count; ++i)
        keys[i] = (draw.chance(.3) && i > 0 ? keys[i - 1] >> 32 : static_cast<std::uint64_t>(draw.integer(0, (std::int64_t{1} << bits) - 1))) << 32 | i;
      auto expected = keys;
      std::sort(expected.begin(), expected.end());
      auto *sorted = keys.data(), *scratch = beside.data();
      kernels::detail::sort_by_row(sorted, scratch, count, bits);
      CHECK(std::vector<std::uint64_t>(sorted, sorted + count) == expected);
    }
  }
  TEST_CASE_TEMPLATE("rows are as after summing and updating one after the other, on any number of threads and with any instructions", Rule,
                     RowwiseAdagrad, Adam) {
    for (const std::int64_t dim : {1, 4, 20, 64, 130}) {
      Draw draw(static_cast<std::uint64_t>(dim));
      constexpr std::int64_t rows = 700, bags = 900;
      const Rule rule{.learning_rate = .1, .eps = 1e-6};
      const auto slots = static_cast<std::size_t>(Rule::state.size());
      const auto whole = draw_bags(draw, bags, rows, 5), alone = draw_bags(draw, bags, rows, 1);
      std::vector<float> gradients(static_cast<std::size_t>(bags * dim)), weights(static_cast<std::size_t>(rows * dim));
      for (auto& one : gradients) one = static_cast<float>(draw.real(-1, 1));
      for (auto& one : weights) one = static_cast<float>(draw.real(-1, 1));
      std::vector<double> divisors(bags);
      for (auto& one : divisors) one = static_cast<double>(draw.integer(0, 3));
      struct Result {
        std::vector<float> weights;
        std::vector<std::vector<float>> state;
        double squares = 0;
        bool operator==(const Result&) const = default;
      };
      const auto task_on = [&](Result& result) {
        result.weights = weights;
        result.state.assign(slots, std::vector<float>(static_cast<std::size_t>(rows * dim)));
        kernels::RowTask task{.dtype = at::kFloat, .weights = result.weights.data(), .stride = dim, .dim = dim, .full_dim = dim};
        for (std::size_t slot = 0; slot < slots; ++slot) {
          const auto columns = Rule::state[slot].shape == StateShape::row ? 1 : dim;
          task.state.push_back({result.state[slot].data(), columns, columns});
        }
        kernels::set_rule<Rule, float>(task, rule);
        return task;
      };
      const auto* first = reinterpret_cast<const std::byte*>(gradients.data());

      Result expected;
      kernels::Occurrences occurrences;
      for (std::int64_t b = 0; b < bags; ++b)
        for (auto i = whole.offsets[static_cast<std::size_t>(b)]; i < whole.offsets[static_cast<std::size_t>(b) + 1]; ++i) {
          const auto at = static_cast<std::size_t>(i), bag = static_cast<std::size_t>(b);
          occurrences.add(whole.ids[at], first + b * dim * 4, divisors[bag] == 0 ? 0 : whole.weights[at] * (1 / divisors[bag]));
        }
      const auto own = std::min<std::int64_t>(bags, static_cast<std::int64_t>(alone.ids.size()));
      for (std::int64_t i = 0; i < own; ++i) occurrences.add(alone.ids[static_cast<std::size_t>(i)], first + i * dim * 4, 1);
      const auto transposed = kernels::transpose(occurrences.rows);
      std::vector<float> sums(transposed.rows.size() * static_cast<std::size_t>(dim));
      kernels::sum_row_gradients(occurrences, transposed, at::kFloat, dim, sums.data());
      for (auto& one : sums) one *= .5F;
      for (const auto one : sums) expected.squares += static_cast<double>(one) * static_cast<double>(one);
      kernels::update_rows(task_on(expected), transposed.rows, sums.data(), nullptr);

      std::vector<Result> results;
      with_instruction_sets([&] {
        for (const int threads : {1, 2, 3, 4})
          with_threads(threads, [&] {
            auto& result = results.emplace_back();
            kernels::FusedUpdate update{.dtype = at::kFloat, .rows = rows, .scale = .5, .task = task_on(result)};
            update.sources = {{.ids = whole.ids.data(), .offsets = whole.offsets.data(), .weights = whole.weights.data(),
                               .divisors = divisors.data(), .bags = bags, .first = first, .stride = dim * 4},
                              {.ids = alone.ids.data(), .bags = own, .first = first, .stride = dim * 4}};
            auto* one = &update;
            kernels::update(std::span(&one, 1));
            result.squares = update.squared_norm();
          });
      });
      for (const auto& result : results) {
        CHECK(result.weights == expected.weights);
        CHECK(result.state == expected.state);
        CHECK(result.squares == doctest::Approx(expected.squares).epsilon(1e-5));
        CHECK(result.squares == results[0].squares);
      }
    }
  }
  TEST_CASE("threads have whole shards where that is even, and share the largest where it is not") {
    const auto shares_of = [](const std::vector<std::int64_t>& counts, std::size_t threads) {
      std::vector<kernels::FusedUpdate> updates(counts.size());
      std::vector<kernels::FusedUpdate*> all;
      for (std::size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] > 0) updates[i].sources = {{.bags = counts[i]}};
        updates[i].task.dim = 4;
        all.push_back(&updates[i]);
      }
      const auto shares = kernels::detail::share_out(all, threads);
      std::string text = "shared";
      const auto add = [&](const std::vector<kernels::FusedUpdate*>& some) {
        for (const auto* one : some) text += " " + std::to_string(one->count());
      };
      add(shares.shared);
      for (const auto& some : shares.whole) text += ";", add(some);
      return text;
    };
    CHECK(shares_of({5, 5, 5, 5}, 2) == "shared; 5 5; 5 5");
    CHECK(shares_of({5, 0, 5}, 1) == "shared; 5 5");
    CHECK(shares_of({4, 100, 4}, 2) == "shared 100; 4; 4");
    CHECK(shares_of({7}, 3) == "shared 7;;;");
    CHECK(shares_of({}, 2) == "shared;;");
    CHECK(shares_of({30, 30, 30, 1, 1}, 2) == "shared 30; 30 1; 30 1");
  }
  TEST_CASE("squares that float32 does not hold are in the norm") {
    for (const float size : {1e-25F, 1e25F}) {
      std::vector<float> table(2), gradient{size, size};
      const Ids ids{0};
      const kernels::RowTask task{.dtype = at::kFloat, .weights = table.data(), .stride = 2, .dim = 2, .full_dim = 2,
                                  .update = [](const kernels::RowTask&, std::span<const std::int64_t>, const void*, const double*) {}};
      kernels::FusedUpdate update{.dtype = at::kFloat, .rows = 1, .task = task};
      update.sources = {{.ids = ids.data(), .bags = 1, .first = reinterpret_cast<const std::byte*>(gradient.data()), .stride = 8}};
      auto* one = &update;
      kernels::update(std::span(&one, 1));
      CHECK(std::sqrt(update.squared_norm()) == doctest::Approx(std::sqrt(2.) * static_cast<double>(size)).epsilon(1e-6));
    }
  }
}

}  // namespace rookery
