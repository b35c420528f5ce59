// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Lookup on the host: the sum of a bag's rows, or the rows themselves.
//
// The task is plain pointers and the functions are no templates; dtypes are switched inside. Sums of float16 and bfloat16 rows are
// float32; long ones are taken in blocks; what goes to another rank may be written narrow. Ids were checked by whoever made the
// task.  Answers to FBGEMM's embedding forward.  Include cost: none (c10 scalar types).

#include <algorithm>
#include <cstdint>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/kernels/cpu/blocked_sum.hpp>
#include <rookery/kernels/cpu/narrow.hpp>
#include <rookery/kernels/cpu/vectorized.hpp>

namespace rookery::kernels {

/// Bags over the rows of one table shard.
struct LookupTask {
  c10::ScalarType dtype;                     // of weights
  const void* weights = nullptr;             // row r starts at element r * stride
  std::int64_t stride = 0, dim = 0;
  const std::int64_t* ids = nullptr;         // [offsets[bags] - offsets[0]]; rows of this shard
  const std::int64_t* offsets = nullptr;     // [bags + 1]; absolute, the first id of the task has number offsets[0]
  const double* sample_weights = nullptr;    // as ids; null when unweighted
  std::int64_t bags = 0;
  void* out = nullptr;                       // bag b at element b * out_stride
  std::int64_t out_stride = 0;
  c10::ScalarType out_dtype = c10::ScalarType::Undefined;   // float16 or bfloat16; else out has the compute_dtype of weights
};

namespace detail {

/// Where the vectors of a task are computed: in its output, or beside it and then written there in a narrow dtype.
template <class Number> class Vectors {
 public:
  explicit Vectors(const LookupTask& task)
      : task_(task), narrow_(is_narrow(task.out_dtype)), scratch_(narrow_ ? static_cast<std::size_t>(task.dim) : 0) {}

  Number* begin(std::int64_t i) { return narrow_ ? scratch_.data() : static_cast<Number*>(task_.out) + i * task_.out_stride; }
  void end(std::int64_t i) {
    constexpr std::int64_t bytes = 2;
    if (narrow_) store(scratch_.data(), task_.dim, task_.out_dtype, static_cast<std::byte*>(task_.out) + i * task_.out_stride * bytes);
  }

 private:
  const LookupTask& task_;
  bool narrow_;
  std::vector<Number> scratch_;
};

template <class Weight, class Number> void pooled_lookup(const LookupTask& task) {
  const auto* weights = static_cast<const Weight*>(task.weights);
  parallel_vectorized<Weight>(task.bags, 1 + 16384 / (task.dim + 1), [&](std::int64_t begin, std::int64_t end) {
    Vectors<Number> vectors(task);
    std::vector<double> wide;
    for (std::int64_t bag = begin; bag < end; ++bag) {
      Number* out = vectors.begin(bag);
      const auto first = task.offsets[bag] - task.offsets[0], last = task.offsets[bag + 1] - task.offsets[0];
      sum_in_blocks(first, last, task.dim, out, wide, [&](std::int64_t i) {
        const Weight* row = weights + task.ids[i] * task.stride;
        if (task.sample_weights) {
          const auto weight = static_cast<Number>(task.sample_weights[i]);
          for (std::int64_t d = 0; d < task.dim; ++d) out[d] += weight * static_cast<Number>(row[d]);
        } else {
          for (std::int64_t d = 0; d < task.dim; ++d) out[d] += static_cast<Number>(row[d]);
        }
      });
      vectors.end(bag);
    }
  });
}

template <class Weight, class Number> void row_lookup(const LookupTask& task) {
  const auto* weights = static_cast<const Weight*>(task.weights);
  parallel(task.offsets[task.bags] - task.offsets[0], 1 + 16384 / (task.dim + 1), [&](std::int64_t begin, std::int64_t end) {
    Vectors<Number> vectors(task);
    for (std::int64_t i = begin; i < end; ++i) {
      std::copy_n(weights + task.ids[i] * task.stride, task.dim, vectors.begin(i));
      vectors.end(i);
    }
  });
}

#ifdef ROOKERY_KERNELS_EXTERN                // instantiated in one file of the project: kernels/cpu/instantiate.hpp
extern template void pooled_lookup<float, float>(const LookupTask&);
extern template void pooled_lookup<double, double>(const LookupTask&);
extern template void pooled_lookup<c10::Half, float>(const LookupTask&);
extern template void pooled_lookup<c10::BFloat16, float>(const LookupTask&);
extern template void row_lookup<float, float>(const LookupTask&);
extern template void row_lookup<double, double>(const LookupTask&);
extern template void row_lookup<c10::Half, float>(const LookupTask&);
extern template void row_lookup<c10::BFloat16, float>(const LookupTask&);
#endif

}  // namespace detail

/// out[b] = sum over bag b of weight * row. Cost: one pass over the rows named; one parallel region.
inline void pooled_lookup(const LookupTask& task) {
  for_table(task.dtype, [&](auto weight, auto number) { detail::pooled_lookup<decltype(weight), decltype(number)>(task); });
}

/// out[i] = row of id i, unpooled; sample weights are not applied. Cost: as pooled_lookup.
inline void row_lookup(const LookupTask& task) {
  for_table(task.dtype, [&](auto weight, auto number) { detail::row_lookup<decltype(weight), decltype(number)>(task); });
}

}  // namespace rookery::kernels
