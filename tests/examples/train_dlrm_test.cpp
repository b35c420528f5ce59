// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// train_dlrm as its users start it: by examples/run on each topology, by torchrun and by mpirun.

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <rookery/core/error.hpp>
#include <rookery/topology/cuda.hpp>

#include "support/test.hpp"

namespace {

using rookery::concat;

struct Ended {
  int status = 0;
  std::string said;              // on both streams
};
Ended shell(const std::string& command) {
  Ended ended;
  std::FILE* const pipe = ::popen(concat("exec 2>&1; ", command).c_str(), "r");
  std::array<char, 4096> text{};
  while (const auto count = std::fread(text.data(), 1, text.size(), pipe)) ended.said.append(text.data(), count);
  ended.status = WEXITSTATUS(::pclose(pipe));
  return ended;
}
bool says(const Ended& ended, std::string_view text) { return ended.said.find(text) != std::string::npos; }
bool has(const std::string& program) { return shell("command -v " + program).status == 0; }

const std::string source = ROOKERY_SOURCE_DIR, once = " --epochs 1 --log-every 1000 --metrics-file ''";

/// The built program, or nothing, with a message.
std::string train_dlrm() {
  const char* build = std::getenv("ROOKERY_BUILD");
  const auto program = concat(build ? build : "", "/examples/train_dlrm");
  if (build && std::filesystem::exists(program)) return "'" + program + "'";
  MESSAGE("skipped: examples/train_dlrm is not built; tests/run without arguments builds it");
  return "";
}
/// The program on MovieLens-100k, or nothing, with a message.
std::string on_movielens() {
  const auto program = train_dlrm();
  const char* folder = std::getenv("ROOKERY_MOVIELENS");
  if (program.empty()) return "";
  if (folder) return concat(program, " --schema '", source, "/examples/applications/movielens.toml' --data '", folder, "'", once);
  MESSAGE("skipped: ROOKERY_MOVIELENS does not name the folder of MovieLens-100k");
  return "";
}

/// The AUC in the one JSON object that a run prints; NaN, with what it said, when it failed.
double auc(const Ended& ended) {
  const auto found = ended.said.rfind("{\"auc\": ");
  if (ended.status == 0 && found != std::string::npos && found == ended.said.find("{\"auc\": "))
    return std::atof(ended.said.c_str() + found + 8);
  MESSAGE("it ended with ", ended.status, ": ", ended.said);
  return NAN;
}
double auc(const std::string& command) { return auc(shell(command)); }
double local_auc() {
  static const double reached = auc(on_movielens());
  return reached;
}

}  // namespace

TEST_SUITE("examples/train_dlrm") {
  TEST_CASE("examples/run --ranks 2 --topology gloo reaches the AUC of one process") {
    if (on_movielens().empty()) return;
    CHECK(std::abs(auc("'" + source + "/examples/run' --ranks 2 --topology gloo" + once) - local_auc()) <= 0.003);
  }

  TEST_CASE("examples/run --ranks 2 --topology mpi reaches the AUC of one process") {
    if (on_movielens().empty()) return;
    const auto ended = shell("'" + source + "/examples/run' --ranks 2 --topology mpi" + once);
    if (says(ended, "there is no mpirun") || says(ended, "does not offer topology 'mpi'")) {
      MESSAGE("skipped: there is no MPI here");
      return;
    }
    CHECK(std::abs(auc(ended) - local_auc()) <= 0.003);
  }

  TEST_CASE("torchrun starts train_dlrm as it is") {
    const char* python = std::getenv("ROOKERY_PYTHON");
    if (on_movielens().empty()) return;
    if (!python || !*python) {
      MESSAGE("skipped: ROOKERY_PYTHON names no Python with torch");
      return;
    }
    const auto torchrun = concat("'", python, "' -m torch.distributed.run --standalone --nproc-per-node 2 --no-python ");
    CHECK(std::abs(auc(torchrun + on_movielens()) - local_auc()) <= 0.003);
  }

  TEST_CASE("mpirun starts train_dlrm as it is") {
    if (on_movielens().empty()) return;
    if (!has("mpirun")) {
      MESSAGE("skipped: there is no mpirun here");
      return;
    }
    const auto two = concat("MASTER_PORT=", 20000 + ::getpid() % 10000, " '", source, "/examples/mpirun' 2 ");
    CHECK(std::abs(auc(two + on_movielens()) - local_auc()) <= 0.003);
  }

  TEST_CASE("a plan out of a file says where tables go") {
    if (on_movielens().empty()) return;
    const auto file = (std::filesystem::temp_directory_path() / concat("rookery_train_dlrm_plan_", ::getpid())).string();
    std::ofstream(file) << R"({"tables": {
      "user": {"kind": "row_wise"}, "item": {"kind": "column_wise", "min_partition": 8}, "age": {"kind": "data_parallel"},
      "gender": {"kind": "table_wise", "ranks": [1]}, "occupation": {"kind": "table_wise"}, "zip": {"kind": "row_wise"},
      "year": {"kind": "table_wise"}, "genres": {"kind": "data_parallel"}}})";
    const auto ended = shell(concat(on_movielens(), " --ranks 2 --plan ", file));
    std::filesystem::remove(file);
    CHECK(std::abs(auc(ended) - local_auc()) <= 0.003);
    CHECK(says(ended, "on rank 0 rows 0-471, rank 1 rows 472-942\n"));
    CHECK(says(ended, "on every rank\n"));
  }

  TEST_CASE("mistakes are one sentence and a status") {
    const auto program = train_dlrm();
    if (program.empty()) return;
    const auto folder = std::filesystem::temp_directory_path() / concat("rookery_train_dlrm_", ::getpid());
    std::filesystem::create_directory(folder);
    const auto write = [&](const char* name, const char* text) {
      std::ofstream(folder / name) << text;
      return concat(" --schema x --plan ", (folder / name).string());
    };
    const auto check = [](const std::string& command, int status, std::string_view sentence) {
      const auto ended = shell(command);
      CHECK(ended.status == status);
      CHECK(ended.said == concat("train_dlrm: ", sentence, "\n"));
    };
    check(program, 2, "--schema is required");
    check(program + " --schema", 2, "--schema needs a value");
    check(program + " --schema x --bogus 3", 2, "--bogus is no option; --help lists those that there are");
    check(program + " --schema x --ranks 0", 2, "--ranks: it must be a whole number from 1 on, not '0'");
    check(program + " --schema x --batch-size 0", 2, "--batch-size: it must be a whole number from 1 on, not '0'");
    check(program + " --schema x --plan p.json --row-wise user", 2, "--row-wise excludes --plan");
    check(program + " --schema x", 1, "x: the file cannot be opened: No such file or directory");
    check(program + " --schema x --plan /none.json", 1, "load_plan: cannot read '/none.json'");
    check(program + write("no.json", "{ x"), 1, concat((folder / "no.json").string(), ":1:3: this is not JSON"));
    check(program + " --schema x --ranks 2 --topology gloo", 1,
          "--ranks 2 --topology gloo: there is 1 process; start as many as there are ranks by examples/run, torchrun, mpirun or srun");
    check(program + " --schema x --device gpu", 1, "device 'gpu': it must be cpu, cuda, or cuda and a number, such as cuda:1");
    if (!rookery::detail::cuda_driver())
      check(program + " --schema x --device cuda", 1,
            concat("device 'cuda:0': this machine has no driver for NVIDIA's GPUs (", rookery::detail::cuda_driver().why(), ")"));
    const auto movielens = concat(program, " --schema '", source, "/examples/applications/movielens.toml' --data '", folder.string(), "'");
    check(movielens, 1, concat(folder.string(), "/ml-100k.inter: the file cannot be opened: No such file or directory"));
    if (const auto trains = on_movielens(); !trains.empty()) {
      const auto tcp = shell(trains + " --topology tcp");
      CHECK(tcp.status == 1);
      CHECK(says(tcp, "train_dlrm: this program does not offer topology 'tcp'; it has: local, threads, gloo"));
      const auto threads = shell(trains + " --ranks 2 --device cuda");
      CHECK(threads.status == 1);
      CHECK(says(threads, "train_dlrm: device 'cuda': topology 'threads' is on the host; one rank has a GPU with topology 'local', several"
                          " with 'nccl'\n"));
      write("four.json", R"({"world_size": 4, "tables": {"user": {"kind": "row_wise"}}})");
      const auto four = shell(concat(trains, " --ranks 2 --plan ", (folder / "four.json").string()));
      CHECK(four.status == 1);
      CHECK(says(four, "Plan: it is for 4 ranks and there are 2\n"));
    }
    std::filesystem::remove_all(folder);
    auto ended = shell(concat("'", source, "/examples/launch' 2 ", program, " --schema x --rank 2"));
    CHECK(ended.status != 0);
    CHECK(ended.said.find("--rank is no option") != std::string::npos);
    CHECK(ended.said.find("--rank is no option") == ended.said.rfind("--rank is no option"));
  }
}
