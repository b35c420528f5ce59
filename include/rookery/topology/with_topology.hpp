// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// with_topology: the one place where a program chooses its topology at run time. Everything inside is compiled once for each
// topology that the program offers.  Include cost: that of the topologies.

#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <exception>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <rookery/core/error.hpp>
#include <rookery/topology/cuda.hpp>
#include <rookery/topology/environment.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/process_environment.hpp>

namespace rookery {

namespace detail {

/// Errors: ConfigError for a device that a topology does not have.
template <class Topology> void expect_device(const Environment& environment) {
  const std::string_view device = environment.device, kind = device.substr(0, device.find(':'));
  constexpr bool on_gpus = requires { Topology::is_on_gpus; };
  check<ConfigError>(device.empty() || device == (on_gpus ? "cuda" : "cpu"), "device '", device, "': topology '", Topology::name, "' ",
                     on_gpus          ? "gives each rank the GPU of its number on its node: the device is cuda"
                     : kind == "cuda" ? "is on the host; one rank has a GPU with topology 'local', several with 'nccl'"
                                      : "is on the host: the device is cpu");
}

/// Calls `fn`, and throws errors of LibTorch again in one line.
template <class Topology, class Fn> void run_alone(Fn&& fn) {
  constexpr bool counts = requires { Topology::at_step(Topology::step()); };
  if constexpr (counts) Topology::at_step(0);
  try {
    fn();
  } catch (const c10::Error& error) {
    std::string where = "rank 0";
    if constexpr (counts) where = concat(where, ", step ", Topology::step());
    fail<Error>(where, ": ", one_line(error));
  }
}

/// Errors: ConfigError where the program was told of several ranks and runs as another number of processes.
inline void expect_started(std::string_view topology, int ranks) {
  const int started = ranks > 1 ? ProcessEnvironment::read(false).world_size : ranks;
  check<ConfigError>(started == ranks, "topology '", topology, "' is to have ", ranks, " ranks, each a process, but ", started,
                     started == 1 ? " process runs" : " processes run", "; start the program by examples/launch ", ranks, ", torchrun "
                     "--no-python --nproc-per-node ", ranks, " or mpirun -n ", ranks);
}

/// Joins the group of processes that a launcher started, runs `fn(topology)` and leaves. When it throws, all ranks end, and the error is
/// thrown again in one line that names rank and step; a launcher that asks for it finds that line in its error file.
template <class Topology, class Fn> int run_process(Fn&& fn) {
  auto topology = [] {
    if constexpr (requires { Topology::join(); }) return Topology::join();
    else return Topology::join(ProcessEnvironment::read());
  }();
  try {
    const int status = fn(topology);
    topology.leave();
    return status;
  } catch (const std::exception& error) {
    if (dynamic_cast<const CommunicationError*>(&error)) {   // says where already
      topology.abort(error.what());
      throw;
    }
    topology.abort(concat(topology.where(), ": ", one_line(error)));
    rethrow_with(std::current_exception(), topology.where());
  }
}

}  // namespace detail

/// Runs `fn(topology)` on the offered topology that the environment names, on every rank that lives in this process.
/// Gives rank 0's result. Warns once on stderr where ranks share the process and their OpenMP threads spin: OMP_WAIT_POLICY is not set.
/// Errors: ConfigError that lists what the program offers, for several ranks on a topology of one, where the ranks are processes and a
/// launcher has not started as many, and for a device that is not the topology's or not there; whatever `fn` throws, LibTorch's errors as
/// an Error of one line with rank and step.
template <class... Topology, class Fn> int with_topology(const Environment& environment, Fn&& fn) {
  int result = 0;
  const bool offered = ((environment.topology == Topology::name) || ...);
  const auto& wanted = offered || environment.otherwise.empty() ? environment.topology : environment.otherwise;
  const auto try_one = [&]<class One>() {
    if (wanted != One::name) return false;
    constexpr bool takes_device = std::is_constructible_v<One, c10::Device>;
    if constexpr (!takes_device) detail::expect_device<One>(environment);
    if constexpr (requires { One::run(1, [](One) {}); }) {
      detail::warn_of_spinning_teams(environment.ranks);
      One::run(environment.ranks, [&](One topology) {
        const bool reports = topology.rank() == 0;
        const int status = fn(std::move(topology));
        if (reports) result = status;
      }, {.local_world_size = environment.node_size});
    } else if constexpr (requires { One::join(ProcessEnvironment{}); }) {
      detail::expect_started(One::name, environment.ranks);
      result = detail::run_process<One>(fn);
    } else {
      check<ConfigError>(environment.ranks == 1, "topology '", One::name, "' has one rank, not ", environment.ranks);
      detail::run_alone<One>([&] {
        if constexpr (takes_device) result = fn(environment.device.empty() ? One{} : One{device_named(environment.device)});
        else result = fn(One{});
      });
    }
    return true;
  };
  const bool ran = (try_one.template operator()<Topology>() || ...);
  std::string names;
  ((names += names.empty() ? "" : ", ", names += Topology::name), ...);
  check<ConfigError>(ran, "this program does not offer topology '", wanted, "'; it has: ", names);
  return result;
}

}  // namespace rookery
