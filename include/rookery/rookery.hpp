// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The umbrella: everything a program needs to declare, place and train a model in one process.
//
// Not here, to be included by name: the topologies beyond Local (topology/threads.hpp), ready-made models (models/), readers
// (data/), and text formatting (core/text.hpp, which brings fmt). Of ATen it brings at::Tensor with its methods and
// what core/at.hpp lists; a file that calls other at:: functions includes their headers.  Include cost: tensor, see docs/headers.md.

#include <rookery/core/at.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/embedding/assign.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/loss/callable.hpp>
#include <rookery/modules/dot_interaction.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/global_mean.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/sparse/batch.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>
#include <rookery/sparse/keyed_tensor.hpp>
#include <rookery/topology/environment.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/with_topology.hpp>
