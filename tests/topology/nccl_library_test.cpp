// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/nccl.hpp>

#include <rookery/topology/local.hpp>
#include <rookery/topology/sockets.hpp>
#include <rookery/topology/with_topology.hpp>

#include <chrono>
#include <cstdlib>
#include <string>

#include "support/test.hpp"

namespace rookery {
namespace {

static_assert(concepts::Communicator<Nccl>);

/// Whether the CUDA runtime finds a GPU.
bool has_gpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

}  // namespace

TEST_SUITE("topology/nccl_library") {
  TEST_CASE("the library is that of its header, ids differ, and the communicator asked for does not block") {
    const NcclApi api;
    int version = 0;
    CHECK(api.library_version(version) == NcclApi::success);
    CHECK(version >= NcclApi::header_version);
    std::string first, second;
    CHECK(api.make_id(first) == NcclApi::success);
    CHECK(api.make_id(second) == NcclApi::success);
    CHECK((first.size() == sizeof(ncclUniqueId) && first != second));
    const auto config = NcclApi::config();
    CHECK((config.blocking == 0 && config.size == sizeof(ncclConfig_t) && config.version == NCCL_VERSION_CODE));
    CHECK(detail::nccl_version_text(22809) == "2.28.9");
  }
  TEST_CASE("dtypes that NCCL reduces, and one that it does not") {
    CHECK(NcclApi::dtype_of(at::kBFloat16) == ncclBfloat16);
    CHECK(NcclApi::dtype_of(at::kLong) == ncclInt64);
    CHECK_THROWS_WITH_AS(NcclApi::dtype_of(at::kBool), "nccl: it cannot reduce a tensor of Bool", ConfigError);
  }
  TEST_CASE("a machine without a driver says so in one line, of NCCL and of the topology") {
    if (has_gpu()) return;
    const NcclApi api;
    std::string id;
    CHECK(api.make_id(id) == NcclApi::success);
    NcclApi::Communicator communicator{};
    const auto code = api.start(communicator, 1, id, 0);
    CHECK(code == ncclUnhandledCudaError);
    CHECK(api.what(code).find("unhandled cuda error") == 0);
    CHECK_THROWS_WITH_AS(api.start(communicator, 1, "short", 0), "an id of NCCL has 128 bytes, not 5", CommunicationError);
    const int port = detail::listen_somewhere().second;
    std::string why;
    try {
      detail::count_gpus("its GPU");
    } catch (const ConfigError& error) {
      why = concat("nccl: rank 0 of 1 did not join the group: ", error.what());
    }
    CHECK_THROWS_WITH_AS(Nccl::join({.master_port = port}), why.c_str(), CommunicationError);
  }
  TEST_CASE("with_topology offers it beside others") {
    CHECK(with_topology<Local, Nccl>({.topology = "local"}, [](auto topology) { return topology.world_size(); }) == 1);
    CHECK_THROWS_WITH_AS((with_topology<Local, Nccl>({.topology = "tcp"}, [](auto) { return 0; })),
                         "this program does not offer topology 'tcp'; it has: local, nccl", ConfigError);
    CHECK_THROWS_WITH_AS((with_topology<Local, Nccl>({.topology = "nccl", .device = "cuda:1"}, [](auto) { return 0; })),
                         "device 'cuda:1': topology 'nccl' gives each rank the GPU of its number on its node: the device is cuda",
                         ConfigError);
  }
}

}  // namespace rookery
