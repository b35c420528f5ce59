// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableStorage: the rows of one shard of a table, and the optimizer state that belongs to them.
//
// Memory is aligned, huge pages are advised, and pages are touched only when rows are. The distance between rows may exceed
// their width: one number of state a row sits right behind its weights when that adds no cache line, so nothing may assume
// that weights are contiguous. On a device all of it is tensors of LibTorch's own.  Include cost: tensor.

#include <sys/mman.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/dtype.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/random.hpp>

namespace rookery {

namespace detail {

/// Zeroed bytes, page aligned, given back when the last owner goes.
inline std::shared_ptr<std::byte> zeroed_bytes(std::size_t bytes) {
  if (bytes == 0) return {};
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check<Error>(memory != MAP_FAILED, "TableStorage: cannot allocate ", bytes, " bytes");
  madvise(memory, bytes, MADV_HUGEPAGE);
  return {static_cast<std::byte*>(memory), [bytes](std::byte* at) { munmap(at, bytes); }};
}

}  // namespace detail

/// Rows [rows, dim] of a table's shard, and a tensor a slot of optimizer state.
///
/// Shapes:  weight a strided view [rows, dim]; state [rows] for a row slot, [rows, dim] for an element slot. rows or dim may be 0.
/// Dtypes:  weights float32, float64, float16 or bfloat16; state their compute_dtype.
/// Errors:  ConfigError with the numbers for a shard of more than 2^63 bytes, Error for memory that is not to be had.
/// Cost:    bytes() in all, zero until touched.
class TableStorage {
 public:
  TableStorage() = default;
  TableStorage(std::int64_t rows, std::int64_t dim, at::ScalarType dtype, std::span<const StateSlot> slots,
               c10::Device device = c10::Device(c10::DeviceType::CPU))
      : rows_(rows), dim_(dim), stride_(dim), dtype_(dtype) {
    if (device.type() == c10::DeviceType::CPU) allocate_on_host(slots);
    else allocate_on(device, slots);
  }

  std::int64_t rows() const { return rows_; }
  std::int64_t dim() const { return dim_; }
  /// Elements from one row's first weight to the next row's.
  std::int64_t stride() const { return stride_; }
  at::ScalarType dtype() const { return dtype_; }
  bool on_device() const { return weight_.defined() && !weight_.is_cpu(); }
  /// Bytes of weights, state and padding.
  std::int64_t bytes() const { return bytes_; }

  /// Calls `fn(storage, first, rows)`, which fills rows 0, 1, .. of a storage on the host with those of this one from `first` on: once
  /// with this storage itself, or for chunks of rows that are then copied to the device.
  template <class Fn> void fill(Fn&& fn) {
    if (!on_device()) return fn(*this, std::int64_t{0}, rows_);
    const auto chunk = std::min(rows_, 1 + (std::int64_t{1} << 24) / (dim_ + 1));
    TableStorage host(chunk, dim_, dtype_, {});
    for (std::int64_t first = 0; first < rows_; first += chunk) {
      const auto rows = std::min(chunk, rows_ - first);
      fn(host, first, rows);
      weight_.narrow(0, first, rows).copy_(host.weight_.narrow(0, 0, rows));                 // [rows, dim]
    }
  }
  /// Gives a row on the host elements `first, first + 1, ..` of a table's initial values; see fill_initial.
  void fill_row(std::int64_t row, const Initial& initial, double default_bound, std::uint64_t key, std::int64_t first) {
    for_table(dtype_, [&](auto zero, auto) {
      using Weight = decltype(zero);
      auto* weights = reinterpret_cast<Weight*>(blocks_.front().get()) + row * stride_;
      fill_initial(initial, default_bound, key, first, weights, dim_);
    });
  }

  const at::Tensor& weight() const { return weight_; }                                       // [rows, dim]
  const std::vector<std::string>& state_names() const { return names_; }
  const at::Tensor& state(std::size_t slot) const { return state_.at(slot); }                // [rows] or [rows, dim]

 private:
  void allocate_on_host(std::span<const StateSlot> slots) {
    const auto state = compute_dtype(dtype_);
    const auto size = static_cast<std::int64_t>(c10::elementSize(dtype_)), state_size = static_cast<std::int64_t>(c10::elementSize(state));
    std::int64_t row_slots = 0;
    for (const auto& slot : slots) row_slots += slot.shape == StateShape::row;
    const auto lines = [&](std::int64_t elements) { return (elements * size + 63) / 64; };
    const bool beside = state == dtype_ && lines(dim_ + row_slots) == lines(dim_);
    if (beside) stride_ = dim_ + row_slots;
    weight_ = view(allocate(stride_, size), 0, dtype_, {rows_, dim_}, {stride_, 1});   // [rows, dim]
    std::int64_t offset = dim_;
    for (const auto& slot : slots) {
      names_.emplace_back(slot.name);
      if (slot.shape == StateShape::element) {
        state_.push_back(view(allocate(dim_, state_size), 0, state, {rows_, dim_}, {dim_, 1}));   // [rows, dim]
      } else if (beside) {
        state_.push_back(view(blocks_.front(), offset++, state, {rows_}, {stride_}));        // [rows]
      } else {
        state_.push_back(view(allocate(1, state_size), 0, state, {rows_}, {1}));         // [rows]
      }
    }
  }
  void allocate_on(c10::Device device, std::span<const StateSlot> slots) {
    const auto number = compute_dtype(dtype_);
    const auto zeros = [&](at::IntArrayRef sizes, at::ScalarType dtype) {
      auto tensor = ops::zeros(sizes, at::TensorOptions(dtype).device(device));              // [rows, dim] or [rows]
      bytes_ += static_cast<std::int64_t>(tensor.nbytes());
      return tensor;
    };
    weight_ = zeros({rows_, dim_}, dtype_);                                                  // [rows, dim]
    for (const auto& slot : slots) {
      names_.emplace_back(slot.name);
      state_.push_back(slot.shape == StateShape::element ? zeros({rows_, dim_}, number) : zeros({rows_}, number));
    }
  }
  /// So many elements of `size` bytes for each row.
  std::shared_ptr<std::byte> allocate(std::int64_t elements, std::int64_t size) {
    std::int64_t bytes = 0;
    check<ConfigError>(!__builtin_mul_overflow(elements, size, &bytes) && !__builtin_mul_overflow(rows_, bytes, &bytes) &&
                           !__builtin_add_overflow(bytes_, bytes, &bytes_),
                       "TableStorage: [", rows_, ", ", dim_, "] of ", c10::toString(dtype_), " needs more than 2^63 bytes");
    blocks_.push_back(detail::zeroed_bytes(static_cast<std::size_t>(bytes)));
    return blocks_.back();
  }
  /// A view that keeps its block alive.
  static at::Tensor view(const std::shared_ptr<std::byte>& block, std::int64_t offset, at::ScalarType dtype, at::IntArrayRef sizes,
                         at::IntArrayRef strides) {
    auto* first = block.get() + (block ? offset * static_cast<std::int64_t>(c10::elementSize(dtype)) : 0);
    return at::from_blob(first, sizes, strides, [block](void*) {}, at::TensorOptions().dtype(dtype));
  }

  std::int64_t rows_ = 0, dim_ = 0, stride_ = 0, bytes_ = 0;
  at::ScalarType dtype_ = at::kFloat;
  std::vector<std::shared_ptr<std::byte>> blocks_;
  at::Tensor weight_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> state_;
};

}  // namespace rookery
