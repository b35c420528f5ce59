// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// weights_to_log: numbers about the weights of a placed model, once. To log again and again, keep a WeightLogger.
//
//   weights_to_log(model, L2Norm{})
//   weights_to_log(model, PerParameter<For<"over.layers.0.bias", MaxAbs>, For<"*.weight", L2Norm>>{})
//
// Answers to common/log_weights.py weights_to_log of the-algorithm-ml.  Include cost: tensor.

#include <rookery/log/log_values.hpp>
#include <rookery/log/weight_logger.hpp>

namespace rookery {

/// What WeightLogger<How> gives for the model; errors, cost and ranks are its own. `PerParameter<>{}` gives an empty list.
template <class Model, class How> LogValues weights_to_log(Model& model, How, WeightLoggerOptions options = {}) {
  return WeightLogger<How>(model, options)(model);
}

}  // namespace rookery
