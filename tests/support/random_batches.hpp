// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Random sparse batches from a seed, with the awkward ones among them: no rows, empty bags, duplicate ids.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <rookery/sparse/keyed_jagged_tensor.hpp>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace rookery::cases {

/// Numbers drawn from a seed.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : engine_(seed) {}
  /// Even on first .. last.
  std::int64_t integer(std::int64_t first, std::int64_t last) { return std::uniform_int_distribution<std::int64_t>(first, last)(engine_); }
  double real(double first, double last) { return std::uniform_real_distribution<double>(first, last)(engine_); }
  bool chance(double probability) { return real(0, 1) < probability; }
  template <class T> const T& one_of(const std::vector<T>& choices) {
    return choices[static_cast<std::size_t>(integer(0, static_cast<std::int64_t>(choices.size()) - 1))];
  }
  at::Tensor tensor(std::vector<std::int64_t> shape, at::ScalarType dtype = at::kDouble) {
    auto values = at::empty(shape, at::kDouble);  // shape
    auto* out = values.mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < values.numel(); ++i) out[i] = real(-1, 1);
    return values.to(dtype);
  }

 private:
  std::mt19937_64 engine_;
};

struct FeatureDraw {
  std::int64_t longest_bag = 4;
  bool is_weighted = false;
  at::ScalarType id_dtype = at::kLong;
  at::ScalarType weight_dtype = at::kDouble;
};

/// Feature `keys[f]` with ids below `rows[f]`. One feature in eight has no ids at all, one weight in eight is 0.
inline KeyedJaggedTensor random_features(Draw& draw, std::vector<std::string> keys, const std::vector<std::int64_t>& rows,
                                         std::int64_t batch, const FeatureDraw& how = {}) {
  std::vector<std::int64_t> lengths, ids;
  std::vector<double> weights;
  for (const auto count : rows) {
    const bool empty = draw.chance(.125);
    for (std::int64_t b = 0; b < batch; ++b) {
      lengths.push_back(empty ? 0 : draw.integer(0, how.longest_bag));
      for (std::int64_t i = 0; i < lengths.back(); ++i) {
        ids.push_back(draw.integer(0, count - 1));
        weights.push_back(draw.chance(.125) ? 0 : draw.real(.1, 2));
      }
    }
  }
  const auto as_tensor = []<class T>(const std::vector<T>& values, at::ScalarType dtype) {
    auto tensor = at::empty({static_cast<std::int64_t>(values.size())}, dtype);
    std::copy(values.begin(), values.end(), tensor.template mutable_data_ptr<T>());
    return tensor;
  };
  return KeyedJaggedTensor::from_lengths(std::move(keys), as_tensor(ids, at::kLong).to(how.id_dtype), as_tensor(lengths, at::kLong),
                                         how.is_weighted ? as_tensor(weights, at::kDouble).to(how.weight_dtype) : at::Tensor{}, batch);
}

}  // namespace rookery::cases
