// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Parameter and Buffer: a model's own tensors, declared with a shape and filled when the model is placed.
//
// Answers to torch.nn.Parameter and register_buffer. Nothing is allocated before ShardingPolicy::apply.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/random.hpp>

namespace rookery {

namespace detail {

/// Errors: ConfigError for a tensor of somebody else's that is not where the model is placed.
inline void check_shared(std::string_view name, const at::Tensor& tensor, c10::Device device) {
  if (tensor.device() != device)
    fail<ConfigError>("'", name, "' is a tensor of a torch::nn::Module and lies on ", tensor.device().str(), ", but the model is placed ",
                      "on ", device.str(), "; call module->to(device) before it is wrapped");
}

}  // namespace detail

/// A trained tensor. Declared by shape and initial law; `assign` before placement gives it a value instead.
class Parameter {
 public:
  Parameter() = default;
  /// `fan_in` sets the default bound of a Uniform law; 0 takes the last dimension.
  explicit Parameter(std::vector<std::int64_t> shape, Initial initial = Zeros{}, std::int64_t fan_in = 0, at::ScalarType dtype = at::kFloat)
      : shape_(std::move(shape)), initial_(initial), fan_in_(fan_in), dtype_(dtype) {}

  /// A parameter whose values are `tensor` itself, which something else computes with too.
  /// Errors: ConfigError when it is not contiguous.
  static Parameter sharing(at::Tensor tensor) {
    check<ConfigError>(tensor.is_contiguous(), "Parameter: a tensor of shape ", tensor.sizes(), " to share is not contiguous");
    Parameter parameter(tensor.sizes().vec(), Zeros{}, 0, tensor.scalar_type());
    parameter.tensor_ = std::move(tensor);
    parameter.shared_ = true;
    return parameter;
  }

  const std::vector<std::int64_t>& shape() const { return shape_; }
  at::ScalarType dtype() const { return dtype_; }
  std::int64_t numel() const {
    std::int64_t count = 1;
    for (const auto size : shape_) count *= size;
    return count;
  }
  bool is_placed() const { return placed_; }
  /// The full name that it was placed under, as "over.layers.0.weight"; empty before.
  const std::string& name() const { return name_; }
  bool is_assigned() const { return tensor_.defined(); }
  /// Whether its values are a tensor that something else computes with too.
  bool is_shared() const { return shared_; }
  /// Where the values of a shared one lie, as a number; 0 of any other.
  std::int64_t shared_address() const { return shared_ ? reinterpret_cast<std::intptr_t>(tensor_.const_data_ptr()) : 0; }

  /// Whether no gradient reaches it: it keeps its values, and its optimizer state waits. On every rank the same.
  bool is_frozen() const { return frozen_; }
  /// Freezes it, or lets it train again, before or after placement. A gradient that it has is dropped.
  void freeze(bool frozen = true) {
    frozen_ = frozen;
    if (!placed_) return;
    tensor_.mutable_grad() = at::Tensor{};
    tensor_.set_requires_grad(!frozen);
  }

  /// The values, of `shape()`. Errors: ConfigError before placement.
  const at::Tensor& tensor() const {
    check<ConfigError>(placed_,
                       "Parameter: read before the model was placed; list it in members() and pass the model through ShardingPolicy::apply "
                       "first");
    return tensor_;
  }
  operator const at::Tensor&() const { return tensor(); }

  /// Gives the values, before or after placement; copied. Errors: ShapeError when the shape differs.
  void assign(const at::Tensor& values) {
    check<ShapeError>(values.sizes().vec() == shape_, "Parameter: assigned values of shape ", values.sizes(), " to shape ", shape_);
    if (placed_ || shared_) {
      tensor_.detach().copy_(values);
    } else {
      tensor_ = values.detach().to(dtype_, /*non_blocking=*/false, /*copy=*/true).contiguous();
    }
  }

  /// Allocates and fills on the host, unless values were assigned, and moves to the device. Called by ShardingPolicy::apply, with the full
  /// name. Errors: ConfigError when placed already, and for a shared tensor that is elsewhere.
  void place(std::string_view name, std::uint64_t seed, c10::Device device = c10::Device(c10::DeviceType::CPU)) {
    check<ConfigError>(!placed_, "Parameter: '", name, "' is placed already");
    if (shared_) {
      detail::check_shared(name, tensor_, device);
    } else if (tensor_.defined()) {                            // copied, for other copies of the declaration may be placed too
      tensor_ = tensor_.to(device, dtype_, /*non_blocking=*/false, /*copy=*/true);           // shape()
    } else {
      tensor_ = ops::empty(shape_, dtype_);                                        // shape()
      const double fan = static_cast<double>(fan_in_ > 0 ? fan_in_ : shape_.empty() ? 1 : shape_.back());
      for_floating(dtype_, [&](auto zero) {
        fill_initial(initial_, 1 / std::sqrt(fan), random_key(seed, name), 0, tensor_.mutable_data_ptr<decltype(zero)>(), numel());
      });
      tensor_ = tensor_.to(device);                                                          // shape()
    }
    tensor_.set_requires_grad(!frozen_);
    name_ = name;
    placed_ = true;
  }

 private:
  std::vector<std::int64_t> shape_;
  Initial initial_ = Zeros{};
  std::int64_t fan_in_ = 0;
  at::ScalarType dtype_ = at::kFloat;
  at::Tensor tensor_;
  std::string name_;
  bool placed_ = false, shared_ = false, frozen_ = false;
};

/// A tensor that belongs to a model but is not trained: running statistics, constants. Starts at zero.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::vector<std::int64_t> shape, at::ScalarType dtype = at::kFloat) : shape_(std::move(shape)), dtype_(dtype) {}

  /// A buffer that only host code reads: it stays on the host wherever the model is placed.
  static Buffer of_host(std::vector<std::int64_t> shape, at::ScalarType dtype) {
    Buffer buffer(std::move(shape), dtype);
    buffer.stays_ = true;
    return buffer;
  }
  /// A buffer whose values are `tensor` itself, which something else computes with too.
  static Buffer sharing(at::Tensor tensor) {
    Buffer buffer(tensor.sizes().vec(), tensor.scalar_type());
    buffer.tensor_ = std::move(tensor);
    buffer.shared_ = true;
    return buffer;
  }

  const std::vector<std::int64_t>& shape() const { return shape_; }
  at::ScalarType dtype() const { return dtype_; }
  /// The values, of `shape()`. Errors: ConfigError before placement.
  const at::Tensor& tensor() const {
    check<ConfigError>(tensor_.defined(),
                       "Buffer: read before the model was placed; list it in members() and pass the model through ShardingPolicy::apply "
                       "first");
    return tensor_;
  }
  operator const at::Tensor&() const { return tensor(); }
  /// Gives the values, before or after placement; copied. Errors: ShapeError when the shape differs.
  void assign(const at::Tensor& values) {
    check<ShapeError>(values.sizes().vec() == shape_, "Buffer: assigned values of shape ", values.sizes(), " to shape ", shape_);
    if (shared_) tensor_.detach().copy_(values);
    else tensor_ = values.detach().to(tensor_.defined() ? tensor_.device() : values.device(), dtype_, false, /*copy=*/true).contiguous();
  }
  /// Allocates zeros unless values were assigned. Called by ShardingPolicy::apply.
  /// Errors: ConfigError for a shared tensor that is elsewhere than the device.
  void place(std::string_view name = {}, c10::Device device = c10::Device(c10::DeviceType::CPU)) {
    if (stays_) device = c10::Device(c10::DeviceType::CPU);
    if (shared_) detail::check_shared(name, tensor_, device);
    else if (tensor_.defined()) tensor_ = tensor_.to(device, dtype_, /*non_blocking=*/false, /*copy=*/true);   // shape()
    else tensor_ = ops::zeros(shape_, at::TensorOptions(dtype_).device(device));             // shape()
  }

 private:
  std::vector<std::int64_t> shape_;
  at::ScalarType dtype_ = at::kFloat;
  at::Tensor tensor_;
  bool shared_ = false, stays_ = false;
};

}  // namespace rookery
