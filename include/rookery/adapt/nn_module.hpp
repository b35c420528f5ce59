// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// NnModule: a torch::nn::Module of your own as a dense part of a model.
//
//   rk::NnModule<torch::nn::SequentialImpl> over{torch::nn::Sequential(torch::nn::Linear(13, 64), torch::nn::ReLU())};
//
// The only header that brings torch::nn's base class; include torch/nn.h, or the modules that you use, beside it. Stands in for
// DistributedModelParallel around plain modules.  Include cost: autograd.

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/core/pass.hpp>

namespace rookery {

/// A module whose parameters and buffers are those of the model, under torch's names: placed, broadcast from rank 0, optimised, logged
/// and saved like any others, and the module computes with them. Parameters that do not require grad are not trained. It is in training
/// mode when the model is.
///
/// Its initial values are the module's own, so a seed of the model does not choose them. A BatchNorm inside sees the rows of its rank
/// only, and a Dropout draws from torch's generator: BatchNorm and Dropout of rookery/modules/ do neither.
/// Errors:  ConfigError for no module, or a parameter that is not contiguous.
/// Ranks:   a module for each; it is not copied, and placement refuses one that two ranks of a process share.
template <class Module> class NnModule {
 public:
  NnModule() = default;
  /// From a shared pointer or a holder such as torch::nn::Sequential.
  explicit NnModule(std::shared_ptr<Module> module) : module_(std::move(module)) { list(); }
  template <class Holder>
    requires requires(const Holder& holder) { std::shared_ptr<Module>(holder.ptr()); }
  explicit NnModule(const Holder& holder) : NnModule(std::shared_ptr<Module>(holder.ptr())) {}
  NnModule(NnModule&&) = default;
  NnModule& operator=(NnModule&&) = default;

  static constexpr auto members() {
    return rookery::members("", &NnModule::parameters_, "", &NnModule::buffers_, "pass", &NnModule::pass_);
  }

  /// Whatever the module's forward takes and gives.
  template <class... Arguments> decltype(auto) operator()(Arguments&&... arguments) const {
    check<ConfigError>(module_ != nullptr, "NnModule: called without a module");
    if (module_->is_training() != pass_.is_training()) module_->train(pass_.is_training());
    return module_->forward(std::forward<Arguments>(arguments)...);
  }

  const std::shared_ptr<Module>& module() const { return module_; }

 private:
  void list() {
    check<ConfigError>(module_ != nullptr, "NnModule: made of no module");
    for (const auto& one : module_->named_parameters()) {
      if (!one.value().defined()) continue;
      if (one.value().requires_grad()) parameters_.push_back({one.key(), Parameter::sharing(one.value())});
      else buffers_.push_back({one.key(), Buffer::sharing(one.value())});
    }
    for (const auto& one : module_->named_buffers())
      if (one.value().defined()) buffers_.push_back({one.key(), Buffer::sharing(one.value())});
  }

  std::shared_ptr<Module> module_;
  std::vector<Named<Parameter>> parameters_;
  std::vector<Named<Buffer>> buffers_;
  Pass pass_;
};

}  // namespace rookery
