// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/reducers.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include "log/cases.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

/// A reducer by hand: partials of `parts`, merged one by one from the left, finished.
template <class R> double reduce(const std::vector<at::Tensor>& parts) {
  std::int64_t count = 0;
  at::Tensor merged;
  for (const auto& part : parts) {
    const auto partial = R{}.partial(part.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true));
    CHECK(partial.sizes().vec() == std::vector<std::int64_t>{R::partial_size});
    merged = merged.defined() ? R{}.merge(at::stack({merged, partial})) : partial;
    count += part.numel();
  }
  return R{}.finish({merged.const_data_ptr<double>(), static_cast<std::size_t>(merged.numel())}, count);
}

template <class... R> struct List {};
using Elementwise = List<L2Norm, L1Norm, Mean, MaxAbs, StandardDeviation>;

template <class Fn, class... R> void for_each_reducer(List<R...>, Fn&& fn) { (fn.template operator()<R>(), ...); }

}  // namespace

TEST_SUITE("log/reducers") {
  TEST_CASE("4.3 parameter reducers on F(4,3)") {
    const std::vector<at::Tensor> weight{cases::fill(4, 3)};                       // of a layer from 3 to 4
    CHECK(reduce<L2Norm>(weight) == doctest::Approx(1.1090536).epsilon(1e-7));
    CHECK(reduce<L1Norm>(weight) == doctest::Approx(3.3).epsilon(1e-7));
    CHECK(reduce<Mean>(weight) == doctest::Approx(.025).epsilon(1e-6));
    CHECK(reduce<MaxAbs>(weight) == doctest::Approx(.5).epsilon(1e-7));
    CHECK(reduce<StandardDeviation>(weight) == doctest::Approx(.3333712).epsilon(1e-6));
    CHECK(std::string_view(L2Norm::name) == "norm");
  }
  TEST_CASE("they are torch's norms, mean and std in float64") {
    const auto x = at::randn({40, 25}, at::kDouble);                               // [40, 25]
    CHECK(reduce<L2Norm>({x}) == doctest::Approx(x.norm().item<double>()).epsilon(1e-14));
    CHECK(reduce<L1Norm>({x}) == doctest::Approx(x.norm(1).item<double>()).epsilon(1e-14));
    CHECK(reduce<Mean>({x}) == doctest::Approx(x.mean().item<double>()).epsilon(1e-12));
    CHECK(reduce<MaxAbs>({x}) == x.abs().max().item<double>());
    CHECK(reduce<StandardDeviation>({x}) == doctest::Approx(x.std().item<double>()).epsilon(1e-14));
    const auto squares = x.square().sum(1);                                        // [40]
    CHECK(reduce<MeanRowNorm>({squares}) == doctest::Approx(x.norm(2, 1).mean().item<double>()).epsilon(1e-14));
  }
  TEST_CASE("law: any cut into parts gives the number of the whole") {
    const auto x = at::randn({1000}, at::kDouble).add(100);                        // [1000]
    for (const std::int64_t cut : {1, 499, 999})
      for_each_reducer(Elementwise{}, [&]<class R>() {
        CAPTURE(R::name);
        const double whole = reduce<R>({x});
        CHECK(reduce<R>({x.narrow(0, 0, cut), x.narrow(0, cut, 1000 - cut)}) == doctest::Approx(whole).epsilon(1e-13));
        CHECK(reduce<R>({x.narrow(0, cut, 1000 - cut), x.narrow(0, 0, cut)}) == doctest::Approx(whole).epsilon(1e-13));
      });
  }
  TEST_CASE("the spread of nearly equal numbers does not cancel") {
    auto x = at::full({1000}, 1e8, at::kDouble);                                   // [1000]
    CHECK(reduce<StandardDeviation>({x.narrow(0, 0, 300), x.narrow(0, 300, 700)}) == 0);
    x.narrow(0, 0, 500).add_(2e-3);                                                // deviations of 1e-3
    CHECK(reduce<StandardDeviation>({x.narrow(0, 0, 300), x.narrow(0, 300, 700)}) == doctest::Approx(1.0005e-3).epsilon(1e-4));
  }
  TEST_CASE("one element has no spread, and NaN stays visible") {
    CHECK(std::isnan(reduce<StandardDeviation>({at::tensor({2.}, at::kDouble)})));
    const auto x = at::tensor({1., NAN, -3.}, at::kDouble);                        // [3]
    for_each_reducer(Elementwise{}, [&]<class R>() { CHECK(std::isnan(reduce<R>({x, at::tensor({5.}, at::kDouble)}))); });
  }
}

}  // namespace rookery
