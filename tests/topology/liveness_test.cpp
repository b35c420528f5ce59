// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/liveness.hpp>

#include <rookery/core/clock.hpp>
#include <rookery/topology/sockets.hpp>

#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

using namespace std::chrono_literals;

/// Ranks of one process that know of each other by their links only.
struct Ranks {
  std::vector<std::unique_ptr<Liveness>> links;
  std::vector<std::string> thrown;
  Liveness& operator[](std::size_t rank) { return *links[rank]; }
};
/// Joins `ranks` of a group of `world`, after `first(port)` has had its say.
Ranks join(int world, std::chrono::milliseconds timeout = 20s, const std::function<void(int port)>& first = [](int) {},
           std::vector<int> ranks = {}) {
  if (ranks.empty())
    for (int rank = 0; rank < world; ++rank) ranks.push_back(rank);
  Ranks group{std::vector<std::unique_ptr<Liveness>>(ranks.size()), std::vector<std::string>(ranks.size())};
  std::promise<int> said;
  const auto port = said.get_future().share();
  const Liveness::Meeting meeting{"127.0.0.1", [&](int number) {
                                    first(number);
                                    said.set_value(number);
                                  },
                                  [&] { return port.get(); }};
  std::vector<std::jthread> joining;
  for (std::size_t i = 0; i < ranks.size(); ++i)
    joining.emplace_back([&, i] {
      try {
        group.links[i] = std::make_unique<Liveness>(ranks[i], world, meeting, timeout, [] {});
      } catch (const CommunicationError& error) {
        group.thrown[i] = error.what();
      }
    });
  return group;
}
/// Waits until `holds()`, ten seconds at most.
template <class Fn> bool soon(Fn&& holds) {
  for (const Stopwatch clock; clock.seconds() < 10; std::this_thread::sleep_for(1ms))
    if (holds()) return true;
  return false;
}
void send(const detail::Descriptor& link, const void* bytes, std::size_t size) {
  detail::send_all(link, std::string_view(static_cast<const char*>(bytes), size));
}
struct Hello {
  char protocol[8] = {'r', 'o', 'o', 'k', 'e', 'r', 'y', '1'};
  std::int32_t rank = 0, world_size = 0;
};
/// What connects to rank 0 and says which rank it is, by hand.
auto greeting(detail::Descriptor& link, std::int32_t rank, std::int32_t world_size) {
  return [&link, rank, world_size](int port) {
    const Hello hello{.rank = rank, .world_size = world_size};
    link = detail::connect_to("127.0.0.1", port, 5s);
    send(link, &hello, sizeof hello);
  };
}
/// What `fn()` gives, or throws, in a process of its own that may have `soft` open files more than this one has, and no more than `hard`.
template <class Fn> std::string with_few_files(rlim_t soft, rlim_t hard, Fn&& fn) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const auto process = ::fork();
  if (process == 0) {
    const auto open = static_cast<rlim_t>(detail::open_files());
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit = {open + soft, std::min(limit.rlim_max, open + hard)};
    ::setrlimit(RLIMIT_NOFILE, &limit);
    std::string said;
    try {
      said = fn();
    } catch (const std::exception& error) {
      said = error.what();
    }
    [[maybe_unused]] const auto written = ::write(ends[1], said.data(), said.size());
    ::_exit(0);
  }
  ::close(ends[1]);
  const detail::Descriptor output(ends[0]);
  std::string said(1000, '\0');
  said.resize(static_cast<std::size_t>(std::max<ssize_t>(::read(ends[0], said.data(), said.size()), 0)));
  ::waitpid(process, nullptr, 0);
  return said;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("topology/liveness") {
  TEST_CASE("every rank hears of a failure, a farewell and a death, and nothing stays open") {
    const auto before = detail::open_files();
    for (int round = 0; round < 20; ++round) {
      auto group = join(4);
      for (const auto& thrown : group.thrown) REQUIRE(thrown == "");
      group[2].leave(7);
      for (const std::size_t rank : {0, 1, 3}) {
        CHECK(soon([&] { return group[rank].left_before(8) == 2; }));
        CHECK(group[rank].left_before(7) == -1);
        CHECK(!group[rank].all_left());
      }
      group.links[2].reset();                                // in order
      if (round % 2 == 0) group[1].fail("rank 1: no more");
      else group.links[1].reset();                           // dies
      for (const std::size_t rank : {0, 3})
        CHECK(soon([&] { return group[rank].cause() == (round % 2 == 0 ? "rank 1: no more" : "rank 1 ended without a word"); }));
    }
    CHECK(detail::open_files() == before);
  }
  TEST_CASE("rank 0 dies: the others know by themselves") {
    auto group = join(3);
    group.links[0].reset();
    for (const std::size_t rank : {1, 2}) CHECK(soon([&] { return group[rank].cause() == "rank 0 ended without a word"; }));
  }
  TEST_CASE("strangers at the door do not keep ranks from meeting") {
    std::vector<detail::Descriptor> strangers;
    auto group = join(3, 20s, [&](int port) {
      for (int i = 0; i < 5; ++i) strangers.push_back(detail::connect_to("127.0.0.1", port, 5s));
      send(strangers[1], "GET / HTTP/1.1\r\n\r\n", 18);
      send(strangers[2], "rookery", 7);                      // and no more
      const std::vector<char> zeros(4096);
      send(strangers[3], zeros.data(), zeros.size());
      strangers[4] = {};
    });
    for (const auto& thrown : group.thrown) CHECK(thrown == "");
    group[1].fail("still here");
    for (const std::size_t rank : {0, 2}) CHECK(soon([&] { return group[rank].cause() == "still here"; }));
  }
  TEST_CASE("ranks that were told other numbers are refused, and all hear it") {
    const auto refused = [](std::int32_t rank, std::int32_t world) {
      detail::Descriptor wrong;
      const Hello hello{.rank = rank, .world_size = world};
      const Stopwatch clock;
      auto group = join(3, 20s, [&](int port) {
        wrong = detail::connect_to("127.0.0.1", port, 5s);
        send(wrong, &hello, sizeof hello);
        std::this_thread::sleep_for(100ms);
      });
      CHECK(clock.seconds() < 5);
      return group.thrown[0];
    };
    CHECK(refused(3, 4) == "a process says that it is rank 3 of 4; rank 0 is one of 3");
    CHECK(refused(0, 3) == "a process says that it is rank 0 of 3; rank 0 is one of 3");
    CHECK(refused(-1, 3) == "a process says that it is rank -1 of 3; rank 0 is one of 3");
    detail::Descriptor twice;
    auto group = join(3, 20s, [&](int port) {
      std::thread([port, &twice] {
        const Hello hello{.rank = 1, .world_size = 3};
        twice = detail::connect_to("127.0.0.1", port, 5s);
        send(twice, &hello, sizeof hello);
      }).join();
    }, {0, 1});
    CHECK(group.thrown[0] == "two processes say that they are rank 1");
  }
  TEST_CASE("a rank that dies while others are awaited ends the start at once; one that does not come, at the deadline") {
    const Stopwatch clock;
    detail::Descriptor dying;
    auto group = join(4, 10min, [&](int port) {
      const Hello hello{.rank = 1, .world_size = 4};
      dying = detail::connect_to("127.0.0.1", port, 5s);
      send(dying, &hello, sizeof hello);
      std::thread([&dying] {
        std::this_thread::sleep_for(300ms);
        dying = {};
      }).detach();
    }, {0, 2});
    CHECK(group.thrown[0] == "rank 1 ended without a word");
    CHECK(soon([&] { return group[1].cause() == "rank 1 ended without a word"; }));          // rank 2
    CHECK(clock.seconds() < 5);
    CHECK(join(4, 500ms, [](int) {}, {0, 2}).thrown[0] == "after 500 ms ranks 1, 3 have not come");
  }
  TEST_CASE("a link that says what no rank says is as one that has ended") {
    for (const std::int32_t size : {-1, 1 << 30, 5}) {
      detail::Descriptor odd;
      auto group = join(3, 20s, greeting(odd, 2, 3), {0, 1});
      const std::int32_t head[] = {'L', size == 5 ? 77 : 2, size};
      send(odd, head, sizeof head);
      send(odd, "12345", 5);
      for (const std::size_t rank : {0, 1}) CHECK(soon([&] { return group[rank].cause() == "rank 2 ended without a word"; }));
    }
  }
  TEST_CASE("who is late: ranks that have not come, and ranks that do not answer") {
    detail::Descriptor silent;
    auto group = join(4, 20s, greeting(silent, 3, 4), {0, 1, 2});
    for (const std::size_t rank : {0, 1, 2}) group[rank].come_to(5);
    for (const std::size_t rank : {0, 1, 2}) CHECK(group[rank].late_ranks(5) == "rank 3, which does not answer");
    auto whole = join(4);
    for (const std::size_t rank : {0, 1, 2, 3}) whole[rank].come_to(rank == 0 ? 6 : 5);
    CHECK(whole[0].late_ranks(6) == "ranks 1, 2, 3, which have not come to it");
    CHECK(whole[1].late_ranks(5) == "messages of the other ranks, which have come to a collective of that number; with "
                                     "ROOKERY_CHECK=communicating ranks say to which");
  }
  TEST_CASE("what ranks say is gathered in order, round after round, whoever is first") {
    auto group = join(3);
    std::vector<std::jthread> saying;
    std::vector<int> good(3);
    for (std::size_t rank = 0; rank < 3; ++rank)
      saying.emplace_back([&, rank] {
        for (int round = 0; round < 200; ++round) {
          const std::string end = round % 50 == 7 ? std::string(100000, 'x') : "";
          good[rank] += group[rank].gather(concat(rank, " at ", round, end), round, 20s) ==
                        std::vector<std::string>{concat("0 at ", round, end), concat("1 at ", round, end), concat("2 at ", round, end)};
        }
      });
    saying.clear();
    CHECK(good == std::vector<int>{200, 200, 200});
    CHECK(group[0].gather("alone", 200, 100ms).empty());
  }
  TEST_CASE("signals that interrupt the link's thread are nothing to it") {
    struct sigaction previous {}, action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, &previous);
    auto group = join(2);
    sigset_t one, old;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    ::pthread_sigmask(SIG_BLOCK, &one, &old);                // so that the links' threads take them
    for (int i = 0; i < 100; ++i) {
      ::kill(::getpid(), SIGUSR1);
      std::this_thread::sleep_for(1ms);
    }
    ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
    CHECK((group[0].cause() == "" && group[1].cause() == ""));
    group[0].fail("heard");
    CHECK(soon([&] { return group[1].cause() == "heard"; }));
    ::sigaction(SIGUSR1, &previous, nullptr);
  }
  TEST_CASE("more than 1024 open files") {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const rlimit wide{limit.rlim_max, limit.rlim_max};
    if (limit.rlim_max < 2000 || ::setrlimit(RLIMIT_NOFILE, &wide) != 0) return;
    std::vector<detail::Descriptor> files;
    for (int i = 0; i < 1100; ++i) files.emplace_back(::dup(2));
    auto group = join(3);
    for (const auto& thrown : group.thrown) CHECK(thrown == "");
    group.links[2].reset();
    for (const std::size_t rank : {0, 1}) CHECK(soon([&] { return group[rank].cause() == "rank 2 ended without a word"; }));
    group.links.clear();
    files.clear();
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  TEST_CASE("the limit of open files is raised for many ranks; where it cannot be, that is said at once") {
    CHECK(with_few_files(8, RLIM_INFINITY, [] {                // an eventfd, a link and rank 0's end of it for each
            auto group = join(100);
            for (const auto& thrown : group.thrown)
              if (!thrown.empty()) return thrown;
            group[7].fail("all here");
            for (const auto& link : group.links)
              if (link != group.links[7] && !soon([&] { return link->cause() == "all here"; })) return std::string("not heard");
            return std::string("met");
          }) == "met");
    const Stopwatch clock;
    const auto refused = with_few_files(50, 60, [] {
      Liveness(0, 1000, {"127.0.0.1", [](int) {}, [] { return 0; }}, 10min, [] {});
      return std::string("met");
    });
    CHECK_MESSAGE(contains(refused, "liveness: rank 0 of 1000 needs 1016 more open files, but of "), refused);
    CHECK_MESSAGE(contains(refused, "(ulimit -n; hard limit "), refused);
    std::vector<detail::Descriptor> taken;
    const auto full = with_few_files(30, 30, [&] {             // others take what was free when it looked
      Liveness(0, 3, {"127.0.0.1", [&](int port) {
                        taken.push_back(detail::connect_to("127.0.0.1", port, 5s));
                        while (taken.back()) taken.emplace_back(::dup(2));
                      }, [] { return 0; }}, 10min, [] {});
      return std::string("met");
    });
    CHECK_MESSAGE(contains(full, "rank 0 cannot connect to all of 3 ranks: Too many open files; "), full);
    CHECK(clock.seconds() < 10);
  }
  TEST_CASE("what is said before all have connected reaches those who come later, in order") {
    std::promise<int> said;
    const auto port = said.get_future().share();
    const Liveness::Meeting meeting{"127.0.0.1", [&](int number) { said.set_value(number); }, [&] { return port.get(); }};
    std::unique_ptr<Liveness> zero;
    std::jthread meets([&] { zero = std::make_unique<Liveness>(0, 3, meeting, 20s, [] {}); });
    Liveness one(1, 3, meeting, 20s, [] {});
    std::vector<std::string> heard;
    std::jthread speaks([&] { heard = one.gather("one", 0, 20s); });
    std::this_thread::sleep_for(200ms);
    Liveness two(2, 3, meeting, 20s, [] {});
    meets.join();
    std::jthread answers([&] { zero->gather("zero", 0, 20s); });
    CHECK(two.gather("two", 0, 20s) == std::vector<std::string>{"zero", "one", "two"});
    speaks.join();
    CHECK(heard == std::vector<std::string>{"zero", "one", "two"});
  }
  TEST_CASE("a rank that does not read is told nothing more, and all hear that") {
    detail::Descriptor silent;
    auto group = join(3, 20s, greeting(silent, 2, 3), {0, 1});
    std::jthread speaks([&] {
      for (int i = 0; i < 40 && group[1].cause().empty(); ++i) group[1].gather(std::string(1 << 20, 'x'), i, 10ms);
    });
    for (const std::size_t rank : {0, 1}) CHECK(soon([&] { return group[rank].cause() == "rank 2 does not read what it is told"; }));
  }
  TEST_CASE("hosts by name and by address of either kind; one that is not there is said so") {
    auto [listener, port] = detail::listen_somewhere();
    CHECK(detail::connect_to("localhost", port, 5s));
    CHECK(detail::connect_to("127.0.0.1", port, 5s));
    if (detail::Descriptor six(::socket(AF_INET6, SOCK_STREAM, 0)); six) {
      sockaddr_in6 loopback{};
      loopback.sin6_family = AF_INET6;
      loopback.sin6_addr = in6addr_loopback;
      if (::bind(six.get(), reinterpret_cast<const sockaddr*>(&loopback), sizeof loopback) == 0)
        CHECK(detail::connect_to("::1", port, 5s));
    }
    listener = {};
    CHECK_THROWS_WITH_AS(detail::connect_to("127.0.0.1", port, 5s), concat("liveness: 127.0.0.1:", port, ": Connection refused").c_str(),
                         CommunicationError);
    const Stopwatch clock;
    CHECK_THROWS_AS(detail::connect_to("no-such-host.invalid", port, 5s), CommunicationError);
    CHECK_THROWS_AS(detail::connect_to("192.0.2.1", port, 500ms), CommunicationError);       // an address of nobody
    CHECK(clock.seconds() < 20);
  }
}

}  // namespace rookery
