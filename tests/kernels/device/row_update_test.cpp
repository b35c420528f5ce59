// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Every rule on whole tensors equals the host's kernel, in every dtype.
#include <rookery/kernels/device/number.hpp>
#include <rookery/kernels/device/rounding.hpp>
#include <rookery/kernels/device/row_update.hpp>

#include <ATen/ops/equal.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <rookery/kernels/cpu/row_update.hpp>

#include "rules/reference_rules.hpp"
#include "support/fake_device.hpp"
#include "support/host_rule.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

/// A tensor with these numbers.
template <class T> at::Tensor tensor_of(const std::vector<T>& values) {
  const auto dtype = std::is_same_v<T, double> ? at::kDouble : std::is_same_v<T, float> ? at::kFloat : at::kLong;
  auto tensor = ops::empty({static_cast<std::int64_t>(values.size())}, dtype);               // [n]
  std::copy(values.begin(), values.end(), tensor.template mutable_data_ptr<T>());
  return tensor;
}

/// A table's shard on the host, and the same by tensors.
template <class Rule, class Number> struct Twins {
  const Rule& rule;
  at::ScalarType dtype;
  std::int64_t entries, dim, stride, full_dim, first_element;
  at::Tensor host, device;                                   // [E, D] of [E, stride]
  std::vector<at::Tensor> host_state, device_state;

  Twins(Draw& draw, const Rule& one, at::ScalarType type) : rule(one), dtype(type) {
    entries = draw.integer(1, 30);
    dim = draw.chance(.2) ? 1 : draw.integer(2, 20);
    stride = dim + draw.integer(0, 3);
    full_dim = dim + (draw.chance(.5) ? 0 : draw.integer(1, 20));
    first_element = draw.integer(0, 1) * (100 * full_dim + full_dim - dim);
    std::vector<double> values(static_cast<std::size_t>(entries * stride));
    for (auto& one_value : values) one_value = draw.chance(.05) ? 0 : draw.real(-1, 1);
    host = tensor_of(values).view({entries, stride}).to(dtype).narrow(1, 0, dim);          // [E, D]
    device = tensor_of(values).view({entries, stride}).to(dtype).to(fake_device).narrow(1, 0, dim);   // [E, D]
    for (std::size_t slot = 0; slot < Rule::state.size(); ++slot) {
      const bool by_row = Rule::state[slot].shape == StateShape::row;
      host_state.push_back(ops::full({entries, by_row ? 1 : dim}, initial_state(rule, slot), compute_dtype(dtype)));
      if (by_row) host_state.back() = host_state.back().view({entries});
      device_state.push_back(host_state.back().to(fake_device));
    }
  }
  void step(Draw& draw, const StepContext& context, const kernels::Rounding& rounding) {
    std::vector<std::int64_t> rows;
    for (std::int64_t row = 0; row < entries; ++row)
      if (rows.empty() || draw.chance(.6)) rows.push_back(row);
    const auto count = static_cast<std::int64_t>(rows.size());
    std::vector<double> values(static_cast<std::size_t>(count * dim));
    for (auto& one : values) one = draw.real(-1, 1);
    const auto gradients = tensor_of(values).view({count, dim}).to(compute_dtype(dtype));  // [U, D]
    kernels::RowTask on_host{.dtype = dtype,
                             .weights = host.mutable_data_ptr(),
                             .stride = stride,
                             .dim = dim,
                             .full_dim = full_dim,
                             .rounding = rounding,
                             .first_element = first_element,
                             .context = context};
    for (const auto& one : host_state) on_host.state.push_back({one.mutable_data_ptr(), one.stride(0), one.dim() == 1 ? 1 : dim});
    kernels::set_rule<Rule, Number>(on_host, rule);
    const auto* summed = gradients.const_data_ptr();
    const kernels::DeviceUpdateTask on_device{.weight = device,
                                              .state = device_state,
                                              .rows = tensor_of(rows).to(fake_device),
                                              .gradients = gradients.to(fake_device),
                                              .full_dim = full_dim,
                                              .rounding = rounding,
                                              .first_element = first_element};
    std::vector<double> sums(static_cast<std::size_t>(count * Rule::row_sums) + 1);
    at::Tensor device_sums;
    if constexpr (Rule::row_sums > 0) {
      kernels::sum_rows(on_host, rows, summed, sums.data());
      device_sums = kernels::sum_rows(rule, context, on_device);                             // [U, row_sums]
      CHECK((device_sums.scalar_type() == at::kDouble));
      sums.pop_back();
      const auto host_sums = tensor_of(sums).view({count, Rule::row_sums});                // [U, row_sums]
      CHECK(difference(host_sums, seen_on_device(device_sums)) <= tolerance(dtype == at::kDouble ? at::kDouble : at::kFloat, Rule::name));
      device_sums = host_sums.to(fake_device);                                               // what follows is compared by itself
    }
    kernels::update_rows(on_host, rows, summed, sums.data());
    kernels::update_rows(rule, context, on_device, device_sums);
  }
};

struct Worst {
  double weight = 0, state = 0;
};

template <class Number, class Rule> void trial(Draw& draw, const Rule& rule, at::ScalarType dtype, bool stochastic, Worst& worst) {
  Twins<Rule, Number> twins(draw, rule, dtype);
  for (std::int64_t step = 1, steps = draw.integer(1, 4); step <= steps; ++step) {
    twins.step(draw, {.step = step, .rate = draw.chance(.5) ? 1 : .25},
               {.stochastic = stochastic, .key = static_cast<std::uint64_t>(draw.integer(0, 1'000'000'000)) << 20});
    worst.weight = std::max(worst.weight, difference(twins.host, seen_on_device(twins.device)));
    for (std::size_t slot = 0; slot < Rule::state.size(); ++slot)
      worst.state = std::max(worst.state, difference(twins.host_state[slot], seen_on_device(twins.device_state[slot])));
    if (c10::elementSize(dtype) < sizeof(Number)) {          // one rounding to the other side is no error of the next step
      twins.device.copy_(twins.host);
      for (std::size_t slot = 0; slot < Rule::state.size(); ++slot) twins.device_state[slot].copy_(twins.host_state[slot]);
    }
  }
}

}  // namespace

TEST_SUITE("kernels/device/row_update") {
  TEST_CASE("every rule on tensors equals the host's kernel, in float32 and float64") {
    std::map<std::string, std::array<Worst, 2>> worst;
    device_to_host();
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      Draw draw(seed);
      for_each_rule(draw, [&]<class Rule>(const Rule& rule) {
        static_assert(concepts::DeviceRule<Rule>);
        auto& of_rule = worst[std::string(Rule::name)];
        trial<double>(draw, rule, at::kDouble, false, of_rule[0]);
        trial<float>(draw, rule, at::kFloat, false, of_rule[1]);
      });
    }
    CHECK(device_to_host() == 0);
    for (const auto& [name, of_rule] : worst) {
      CAPTURE(name);
      CHECK(of_rule[0].weight <= tolerance(at::kDouble));
      CHECK(of_rule[0].state <= tolerance(at::kDouble));
      CHECK(of_rule[1].weight <= tolerance(at::kFloat, name, 4));
      CHECK(of_rule[1].state <= tolerance(at::kFloat, name, 4));
    }
  }

  TEST_CASE("narrow tables: every rule rounds as the host's kernel does, to the nearest and stochastically") {
    for (const auto dtype : {at::kHalf, at::kBFloat16})
      for (const bool stochastic : {false, true})
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
          Draw draw(seed);
          for_each_rule(draw, [&]<class Rule>(const Rule& rule) {
            CAPTURE(Rule::name);
            CAPTURE(c10::toString(dtype));
            Worst worst;
            trial<float>(draw, rule, dtype, stochastic, worst);
            CHECK(worst.weight <= spacing(dtype, 1));        // float32 may lie on the other side of where rounding changes
            CHECK(worst.state <= tolerance(at::kFloat, Rule::name, 4));
          });
        }
  }

  TEST_CASE("rounding has the host's bits for every kind of number") {
    std::vector<float> values;
    Draw draw(5);
    for (int i = 0; i < 20'000; ++i) values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(draw.integer(0, 0xffffffffLL))));
    for (const float special : {0.f, -0.f, 65504.f, -65504.f, 65519.f, 65520.f, 1e-8f, 5.9604645e-8f, 1e-40f, 3.4e38f, -3.4028235e38f})
      values.push_back(special);
    const auto count = static_cast<std::int64_t>(values.size());
    const auto wide = tensor_of(values).to(fake_device);                   // [n]
    std::vector<std::int64_t> numbers(values.size());
    std::iota(numbers.begin(), numbers.end(), std::int64_t{77});
    for (const auto dtype : {at::kHalf, at::kBFloat16})
      for (const bool stochastic : {false, true}) {
        CAPTURE(c10::toString(dtype));
        CAPTURE(stochastic);
        const kernels::Rounding rounding{.stochastic = stochastic, .key = 0xf00dfeedcafe1234ULL};
        const auto host = ops::empty({count}, dtype);                                        // [n]
        kernels::store_row(dtype, values.data(), count, rounding, numbers.front(), host.mutable_data_ptr());
        const auto device = seen_on_device(
            kernels::round_rows(wide, dtype, rounding, tensor_of(numbers).to(fake_device)));   // [n]
        CHECK((device.scalar_type() == dtype));
        const auto back = device.to(at::kFloat);                                             // [n]
        std::int64_t differing = 0;
        for (std::int64_t i = 0; i < count; ++i) {
          const auto bits = [&](const at::Tensor& t) { return static_cast<const std::uint16_t*>(t.const_data_ptr())[i]; };
          differing += bits(host) != bits(device) && !std::isnan(values[static_cast<std::size_t>(i)]);
          if (std::isnan(values[static_cast<std::size_t>(i)])) differing += !std::isnan(back.const_data_ptr<float>()[i]);
        }
        CHECK(differing == 0);
      }
  }

  TEST_CASE("a whole parameter: the same rules without rows") {
    const auto weight = ops::full({2, 3, 4}, 1., at::kFloat), gradient = ops::full({2, 3, 4}, .5, at::kFloat);   // [2, 3, 4]
    const std::vector<at::Tensor> state{ops::zeros({2, 3, 4}), ops::zeros({2, 3, 4})};
    kernels::update_rows(Adam{.learning_rate = .1}, {.step = 1, .rate = .5},
                         {.weight = weight, .state = state, .gradients = gradient, .full_dim = 24});
    CHECK(difference(weight, ops::full({2, 3, 4}, .95, at::kFloat)) <= 1e-6);
    CHECK(difference(state[0], ops::full({2, 3, 4}, .05, at::kFloat)) <= 1e-6);
    CHECK(at::equal(gradient, ops::full({2, 3, 4}, .5, at::kFloat)));
  }

  TEST_CASE("a rule that is written for the host alone is known as such, alone and inside another") {
    static_assert(concepts::Rule<HostRule> && !concepts::DeviceRule<HostRule>);
    static_assert(concepts::Rule<RowCounted<HostRule>> && !concepts::DeviceRule<RowCounted<HostRule>>);
    static_assert(concepts::DeviceRule<RowCounted<Adam>> && concepts::DeviceRule<MaxNorm<RowwiseAdagrad>>);
  }
}

}  // namespace rookery
