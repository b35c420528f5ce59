// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/facts.hpp>

#include <rookery/topology/local.hpp>

#include <limits>

#include "support/test.hpp"

namespace rookery {
namespace {

void refuse(const TopologyFacts& facts, const char* sentence) { CHECK_THROWS_WITH_AS(facts.validate(), sentence, ConfigError); }

}  // namespace

TEST_SUITE("topology/facts") {
  TEST_CASE("defaults are one rank on a CPU with TorchRec's constants") {
    const TopologyFacts facts;
    facts.validate();
    CHECK(facts.nodes() == 1);
    CHECK(facts.ranks_per_node() == 1);
    CHECK(facts.on_cpu());
    CHECK(facts.memory() == 137438953472);
    CHECK(facts.device_bandwidth / 1000 == 963146416.128);                 // bytes a millisecond, as TorchRec counts
    CHECK(facts.host_bandwidth / 1000 == doctest::Approx(54760833.024).epsilon(1e-15));
    CHECK(facts.intra_node_bandwidth / 1000 == doctest::Approx(644245094.4).epsilon(1e-15));
    CHECK(facts.inter_node_bandwidth / 1000 == doctest::Approx(13421772.8).epsilon(1e-15));
  }
  TEST_CASE("nodes and where tables lie") {
    const TopologyFacts facts{.world_size = 16, .local_world_size = 8, .device = c10::DeviceType::CUDA};
    CHECK(facts.nodes() == 2);
    CHECK(facts.memory() == 34359738368);
    CHECK(TopologyFacts{.world_size = 6}.ranks_per_node() == 6);
    CHECK(facts_of(Local{}).world_size == 1);
    CHECK(facts_of(Local{}).on_cpu());
  }
  TEST_CASE("what a GPU says of itself takes the place of constants, and those that stay are named") {
    TopologyFacts facts{.world_size = 8, .local_world_size = 4, .device = c10::DeviceType::CUDA};
    learn(facts, {});
    CHECK(facts.memory() == 34359738368);
    CHECK(facts.constants == "memory, its bandwidth, exchange in a node, exchange between nodes");
    learn(facts, {.memory = 150754820096, .bandwidth = 4.9e12, .nvlinks = 18, .nvlink_bandwidth = 478e9});
    CHECK((facts.memory() == 150754820096 && facts.device_bandwidth == 4.9e12 && facts.intra_node_bandwidth == 478e9));
    CHECK(facts.constants == "exchange between nodes");
    learn(facts, {.memory = 5, .bandwidth = 4.9e12, .nvlinks = 0, .nvlink_bandwidth = 0});
    CHECK(facts.intra_node_bandwidth == facts.host_device_bandwidth);
    learn(facts, {.memory = 5, .bandwidth = 4.9e12}, /*exchange_is_measured=*/true);
    CHECK(facts.constants == "");
    facts = {.device = c10::DeviceType::CUDA};
    learn(facts, {.memory = 5, .bandwidth = 4.9e12});
    CHECK(facts.constants == "");                              // one rank exchanges with nobody
  }
  TEST_CASE("facts of no machine are refused with their numbers") {
    refuse({.world_size = 0}, "TopologyFacts: 0 ranks on nodes of 0; every node must have as many");
    refuse({.world_size = 6, .local_world_size = 4}, "TopologyFacts: 6 ranks on nodes of 4; every node must have as many");
    refuse({.device_memory = -1, .host_memory = 2}, "TopologyFacts: -1 bytes of device memory and 2 of host memory");
    refuse({.intra_node_bandwidth = 0}, "TopologyFacts: a bandwidth of 0 bytes per second");
    refuse({.host_bandwidth = std::numeric_limits<double>::infinity()}, "TopologyFacts: a bandwidth of inf bytes per second");
  }
}

}  // namespace rookery
