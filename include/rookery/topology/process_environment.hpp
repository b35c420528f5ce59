// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// ProcessEnvironment: who this process is among those that a launcher has started, read from environment variables.
//
// torchrun's and plain RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT come first, then Open MPI's, MPICH's and Slurm's own. ROOKERY_TIMEOUT
// is the deadline of every wait, in seconds; ROOKERY_CHECK=communicating compares collectives over ranks before they are made.
// Answers to torch.distributed's env:// rendezvous.  Include cost: none.

#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// The number that all of the text is, if it is one.
inline std::optional<int> whole_number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return {};
  return value;
}

}  // namespace detail

/// How much ranks check of one another: `communicating` compares what they are about to do before each collective.
enum class CheckLevel { always, communicating };

/// One process of a launched group.
struct ProcessEnvironment {
  int rank = 0, world_size = 1;
  int local_rank = 0, local_world_size = 1;      // on this node
  std::string master_address = "127.0.0.1";      // where rank 0's store listens
  int master_port = 29500;
  bool agent_store = false;                      // the launcher holds the store; every rank is its client
  std::string attempt = "0";                     // counts restarts by the launcher, so that each has keys of its own
  std::chrono::milliseconds timeout = std::chrono::minutes(10);   // of every wait, and of the start
  CheckLevel check_level = CheckLevel::always;
  std::string error_file{};                      // where the launcher wants to read why a rank failed; empty: nowhere

  /// Whether a launcher has said anything.
  static bool is_launched() { return first({"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}) != nullptr; }

  /// Whether the launcher is MPI's, or one that serves it, and nobody has set torch.distributed's own variables.
  static bool is_launched_for_mpi() { return !std::getenv("RANK") && first({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"}); }

  /// Errors: ConfigError for a number that is none, a rank that is not below the world size, a port that cannot be, or several
  /// processes of which none is told where to meet, unless they do not meet `at_address`: MPI's know each other.
  static ProcessEnvironment read(bool at_address = true) {
    ProcessEnvironment found;
    found.rank = number({"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}, 0);
    found.world_size = number({"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"}, 1);
    found.local_rank = number({"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}, found.rank);
    found.local_world_size =
        number({"LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"}, found.world_size);
    check<ConfigError>(found.world_size > 0 && found.rank >= 0 && found.rank < found.world_size, "environment: rank ", found.rank, " of ",
                       found.world_size, "; ranks begin at 0 and end below their number");
    if (const char* address = std::getenv("MASTER_ADDR")) found.master_address = address;
    else check<ConfigError>(!at_address || found.world_size == found.local_world_size, "environment: MASTER_ADDR is not set, but ",
                            found.world_size, " processes run on nodes of ", found.local_world_size, "; set it to the host of rank 0");
    found.master_port = number({"MASTER_PORT"}, found.master_port);
    check<ConfigError>(found.master_port > 0 && found.master_port < 65536, "environment: MASTER_PORT is ", found.master_port,
                       "; a port is between 1 and 65535");
    const int seconds = number({"ROOKERY_TIMEOUT"}, 600);
    check<ConfigError>(seconds > 0, "environment: ROOKERY_TIMEOUT is ", seconds, "; it must be a positive number of seconds");
    found.timeout = std::chrono::seconds(seconds);
    const auto text = [](const char* name) { return std::string_view(std::getenv(name) ? std::getenv(name) : ""); };
    found.agent_store = text("TORCHELASTIC_USE_AGENT_STORE") == "True";
    if (!text("TORCHELASTIC_RESTART_COUNT").empty()) found.attempt = text("TORCHELASTIC_RESTART_COUNT");
    const auto level = text("ROOKERY_CHECK");
    check<ConfigError>(level.empty() || level == "always" || level == "communicating", "environment: ROOKERY_CHECK is '", level,
                       "'; it must be always or communicating");
    if (level == "communicating") found.check_level = CheckLevel::communicating;
    found.error_file = text("TORCHELASTIC_ERROR_FILE");
    return found;
  }

 private:
  /// The first of the variables that is set; Slurm's count in a step only, for a batch script has them too and is one process.
  static const char* first(std::initializer_list<const char*> names) {
    for (const char* name : names)
      if (std::getenv(name) && (std::string_view(name).substr(0, 6) != "SLURM_" || std::getenv("SLURM_STEP_ID"))) return name;
    return nullptr;
  }
  /// The number in the first of the variables that is set.
  static int number(std::initializer_list<const char*> names, int otherwise) {
    const char* name = first(names);
    if (!name) return otherwise;
    const auto value = detail::whole_number(std::getenv(name));
    if (!value) fail<ConfigError>("environment: ", name, " is '", std::getenv(name), "'; it must be a number");
    return *value;
  }
};

}  // namespace rookery
