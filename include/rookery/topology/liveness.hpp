// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Liveness: a link of their own between the processes of a group, over which each learns at once that another has died or failed.
//
// Transports notice a dead peer late: Gloo, with large messages in flight, only after its whole timeout. Here every rank holds one
// idle TCP connection to rank 0, which tells all others what it hears: the kernel closes the connection of a process that dies,
// however it dies. A rank that leaves in order says so first. At a deadline the ranks are asked how far they have come, and in the
// communicating check level what they are about to do.  Include cost: none.

#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <rookery/topology/sockets.hpp>

namespace rookery {

/// What a rank hears of the others.
///
/// Cost:    one thread that sleeps, one connection a rank; rank 0 has one to every other. The process's limit of open files is raised for
///          them, and for as many of whatever carries the messages, where its hard limit lets it.
/// Errors:  CommunicationError from the constructor when ranks do not meet before `timeout`, one fails before they have met, or the limit
///          of open files is too low.
class Liveness {
 public:
  /// Where rank 0 listens: it says its port to the others by `publish`, and they learn it by `look_up`, which waits.
  struct Meeting {
    std::string host;                                        // of rank 0
    std::function<void(int port)> publish;
    std::function<int()> look_up;
  };

  Liveness(int rank, int world_size, const Meeting& meeting, std::chrono::milliseconds timeout, std::function<void()> told)
      : rank_(rank), told_(std::move(told)), wake_(::eventfd(0, EFD_CLOEXEC)), peers_(static_cast<std::size_t>(world_size)) {
    if (world_size == 1) return;
    const int needed = few_files + (rank == 0 ? world_size : 1);
    detail::make_room_for_files(needed, needed + 4 * world_size, concat("liveness: rank ", rank, " of ", world_size));   // and transports'
    if (rank == 0) {
      for (std::size_t other = 1; other < peers_.size(); ++other) peers_[other].is_awaited = true;
      auto [listener, port] = detail::listen_somewhere();
      listener_ = std::move(listener);
      meeting.publish(port);
      thread_ = std::thread([this] { listen(); });
      meet(timeout);
    } else {
      peers_[0].link = detail::connect_to(meeting.host, meeting.look_up(), timeout);
      detail::watch(peers_[0].link);
      const Hello hello{.rank = rank, .world_size = world_size};
      detail::send_all(peers_[0].link, std::string_view(reinterpret_cast<const char*>(&hello), sizeof hello));
      thread_ = std::thread([this] { listen(); });
    }
  }
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;
  ~Liveness() { stop(); }

  /// Tells all ranks that this one failed.
  void fail(std::string_view text) { say('F', rank_, text); }
  /// Tells all ranks that this one ends in order, after so many collectives.
  void leave(std::int64_t collectives) { say('L', rank_, bytes_of(collectives)); }
  /// What to answer when a rank asks how many collectives this one has come to.
  void come_to(std::int64_t collectives) { come_to_ = collectives; }

  /// Why the group cannot go on; empty while it can.
  std::string cause() const {
    const std::lock_guard lock(mutex_);
    return cause_;
  }
  /// The first rank that has left after fewer than `collectives`, or -1.
  int left_before(std::int64_t collectives) const {
    const std::lock_guard lock(mutex_);
    return find([&](const Peer& peer) { return peer.left >= 0 && peer.left < collectives; });
  }
  /// Whether every other rank has left.
  bool all_left() const {
    const std::lock_guard lock(mutex_);
    return find(is_there) < 0;
  }
  /// Waits until every other rank has left. Gives what came instead: why the group cannot go on, or who has not left at the deadline.
  std::string wait_for_leave(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout, [&] { return find(is_there) < 0 || !cause_.empty(); });
    if (find(is_there) < 0) return {};
    if (!cause_.empty()) return cause_;
    const auto [ranks, count] = those(is_there);
    return concat("waited ", timeout.count(), " ms for ", ranks, " to end too");
  }
  /// Why the group cannot go on, which may still be on its way; empty when nobody has said it by then.
  std::string cause_within(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, time, [&] { return !cause_.empty(); });
    return cause_;
  }

  /// Whom a rank has waited for that has come to `collectives`, in words. Asks the others, and gives them a little time.
  std::string late_ranks(std::int64_t collectives) {
    std::unique_lock lock(mutex_);
    for (auto& peer : peers_) peer.come_to = -1;
    lock.unlock();
    say('?', rank_, "");
    lock.lock();
    changed_.wait_for(lock, std::chrono::milliseconds(300), [&] { return find([](const Peer& peer) { return peer.come_to < 0; }) < 0; });
    if (rank_ != 0 && peers_[0].come_to < 0) return "rank 0, which does not answer";   // and passes on no answers
    for (const bool silent : {true, false}) {
      const auto [ranks, count] = those([&](const Peer& peer) { return peer.come_to < (silent ? 0 : collectives); });
      if (count == 1) return concat(ranks, silent ? ", which does not answer" : ", which has not come to it");
      if (count > 1) return concat(ranks, silent ? ", which do not answer" : ", which have not come to it");
    }
    return "messages of the other ranks, which have come to a collective of that number; with ROOKERY_CHECK=communicating ranks say to "
           "which";
  }

  /// Says something to all ranks and gives what each says at its own call of the same number, in rank order; nothing when a rank fails,
  /// leaves before `collectives` or does not come in time.
  std::vector<std::string> gather(std::string_view own, std::int64_t collectives, std::chrono::milliseconds timeout) {
    say('C', rank_, own);
    std::unique_lock lock(mutex_);
    const auto missing = [&] { return find([](const Peer& peer) { return peer.said.empty(); }) >= 0; };
    const auto early = [&] { return find([&](const Peer& peer) { return peer.left >= 0 && peer.left < collectives; }) >= 0; };
    changed_.wait_for(lock, timeout, [&] { return !missing() || !cause_.empty() || early(); });
    if (missing()) return {};
    std::vector<std::string> all;
    for (std::size_t rank = 0; rank < peers_.size(); ++rank) {
      all.emplace_back(own);
      if (!is_other(rank)) continue;
      all.back() = std::move(peers_[rank].said.front());
      peers_[rank].said.pop_front();
    }
    return all;
  }

 private:
  struct Peer {
    detail::Descriptor link{};
    std::string received{};
    std::int64_t left = -1, come_to = -1;                    // collectives that it took part in, once it has left or was asked
    std::deque<std::string> said{};
    bool is_awaited = false;                                 // will connect
    bool is_deaf = false;                                    // has not read what it was told
    std::string unsent{};                                    // for when it connects
  };
  /// What a rank says first to rank 0.
  struct Hello {
    char protocol[8] = {'r', 'o', 'o', 'k', 'e', 'r', 'y', '1'};
    std::int32_t rank = 0, world_size = 0;
  };
  /// In front of each message: its kind, whom it is about, and the bytes that follow.
  struct Head {
    std::int32_t kind = 0, rank = 0, size = 0;
  };
  static constexpr std::int32_t longest = 1 << 24;           // bytes of a message
  static constexpr int few_files = 16;                       // beside the links: strangers among them

  bool is_other(std::size_t rank) const { return static_cast<int>(rank) != rank_; }
  /// The first other rank of which `holds(peer)`, or -1. The lock is held.
  template <class Fn> int find(Fn&& holds) const {
    for (std::size_t rank = 0; rank < peers_.size(); ++rank)
      if (is_other(rank) && holds(peers_[rank])) return static_cast<int>(rank);
    return -1;
  }
  /// The other ranks of which `holds(peer)`, as "rank 1" or "ranks 1, 2", and how many they are. The lock is held.
  template <class Fn> std::pair<std::string, int> those(Fn&& holds) const {
    std::string ranks;
    int count = 0;
    for (std::size_t rank = 0; rank < peers_.size(); ++rank)
      if (is_other(rank) && holds(peers_[rank])) ranks += concat(count++ > 0 ? ", " : "", rank);
    return {concat(count == 1 ? "rank " : "ranks ", ranks), count};
  }
  static bool is_there(const Peer& peer) { return peer.left < 0; }

  static std::string bytes_of(std::int64_t number) { return std::string(reinterpret_cast<const char*>(&number), sizeof number); }
  static std::int64_t number_in(const std::string& bytes) {
    std::int64_t number = 0;
    std::memcpy(&number, bytes.data(), std::min(bytes.size(), sizeof number));
    return number;
  }
  static std::string message(char kind, int rank, std::string_view text) {
    const Head head{kind, rank, static_cast<std::int32_t>(text.size())};
    return std::string(reinterpret_cast<const char*>(&head), sizeof head).append(text);
  }
  /// Says it to rank 0, or as rank 0 to all but the one it is about.
  void say(char kind, int about, std::string_view text) {
    const auto bytes = message(kind, about, text);
    const std::lock_guard lock(sending_);
    for (std::size_t rank = 0; rank < peers_.size(); ++rank) {
      auto& peer = peers_[rank];
      if (static_cast<int>(rank) == about) continue;
      if (peer.link) send(peer, bytes);
      else if (peer.is_awaited) peer.unsent += bytes;
    }
  }
  /// Sends all of it or breaks the link, for what follows a part of a message is no message. Its end is found by `listen`.
  static void send(Peer& peer, std::string_view bytes) {
    const int reason = detail::send_all(peer.link, bytes);
    if (reason == ETIMEDOUT) peer.is_deaf = true;
    if (reason != 0) ::shutdown(peer.link.get(), SHUT_RDWR);
  }
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
    if (thread_.joinable()) thread_.join();
  }

  /// Rank 0 waits until every rank has connected and said who it is.
  void meet(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    const auto absent = [](const Peer& peer) { return !peer.link; };
    changed_.wait_for(lock, timeout, [&] { return find(absent) < 0 || !cause_.empty(); });
    if (cause_.empty() && find(absent) < 0) return;
    const auto [ranks, count] = those(absent);
    const auto have = count == 1 ? " has" : " have";
    const auto cause = cause_.empty() ? concat("after ", timeout.count(), " ms ", ranks, have, " not come") : cause_;
    lock.unlock();
    fail(cause);
    stop();
    rookery::fail<CommunicationError>(cause);
  }

  void listen() {
    const auto links = rank_ == 0 ? peers_.size() : 1;
    for (;;) {
      std::vector<pollfd> waiting{{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};   // poll takes no notice of a number below 0
      for (std::size_t rank = 0; rank < links; ++rank) waiting.push_back({peers_[rank].link.get(), POLLIN, 0});
      for (const auto& newcomer : newcomers_) waiting.push_back({newcomer.link.get(), POLLIN, 0});
      if (::poll(waiting.data(), waiting.size(), -1) < 0) {
        if (errno == EINTR) continue;
        return hear('F', rank_, concat("rank ", rank_, " cannot watch ", waiting.size(), " connections: ", std::strerror(errno)));
      }
      {
        const std::lock_guard lock(mutex_);
        if (stopping_) return;
      }
      const auto ready = [&](std::size_t i) { return waiting[i].revents != 0; };
      for (std::size_t rank = 0; rank < links; ++rank)
        if (ready(2 + rank)) read(rank);
      for (std::size_t i = waiting.size() - 2 - links; i-- > 0;)           // from the last on: one that has been greeted goes
        if (i < newcomers_.size() && ready(2 + links + i)) greet(i);
      if (listener_ && ready(1)) accept();
    }
  }
  void accept() {
    detail::Descriptor link(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    const int reason = errno;
    if (link) return void(newcomers_.emplace_back().link = std::move(link));
    if (reason != EMFILE && reason != ENFILE && reason != ENOBUFS && reason != ENOMEM) return;   // whoever came has gone again
    listener_ = {};
    hear('F', 0, concat("rank 0 cannot connect to all of ", peers_.size(), " ranks: ", std::strerror(reason), "; ", detail::open_files(),
                        " files are open (ulimit -n)"));
  }
  /// Appends what a peer has sent; false when its link has ended.
  static bool receive(Peer& peer, std::size_t most) {
    char bytes[4096];
    const auto count = ::recv(peer.link.get(), bytes, std::min(most, sizeof bytes), 0);
    if (count > 0) peer.received.append(bytes, static_cast<std::size_t>(count));
    return count > 0 || (count < 0 && (errno == EINTR || errno == EAGAIN));
  }
  /// Hears out one that has connected: a rank, or a stranger, who is shown the door.
  void greet(std::size_t i) {
    auto& newcomer = newcomers_[i];
    const Hello expected;
    Hello hello;
    const bool there = receive(newcomer, sizeof hello - newcomer.received.size());
    if (there && newcomer.received.size() < sizeof hello) return;
    std::memcpy(&hello, newcomer.received.data(), newcomer.received.size());
    auto link = std::move(newcomer.link);
    const bool complete = there && std::memcmp(hello.protocol, expected.protocol, sizeof hello.protocol) == 0;
    newcomers_.erase(newcomers_.begin() + static_cast<std::ptrdiff_t>(i));
    if (!complete) return;
    const auto ranks = static_cast<std::int32_t>(peers_.size());
    const bool fits = hello.world_size == ranks && hello.rank > 0 && hello.rank < ranks;
    if (!fits || peers_[static_cast<std::size_t>(hello.rank)].link) {
      const auto cause = fits ? concat("two processes say that they are rank ", hello.rank)
                              : concat("a process says that it is rank ", hello.rank, " of ", hello.world_size, "; rank 0 is one of ",
                                       ranks);
      detail::send_all(link, message('F', 0, cause));
      return hear('F', 0, cause);
    }
    detail::watch(link);
    {
      const std::scoped_lock lock(sending_, mutex_);
      auto& met = peers_[static_cast<std::size_t>(hello.rank)];
      met.link = std::move(link);
      met.is_awaited = false;
      send(met, std::exchange(met.unsent, {}));
      if (find([](const Peer& peer) { return !peer.link; }) >= 0) return;
    }
    listener_ = {};
    newcomers_.clear();
    changed_.notify_all();
  }
  /// Reads what a peer sent; a link that ends without a word of farewell is a death.
  void read(std::size_t from) {
    auto& peer = peers_[from];
    bool whole = receive(peer, sizeof(char[4096]));
    Head head;
    while (whole && peer.received.size() >= sizeof head) {
      std::memcpy(&head, peer.received.data(), sizeof head);
      whole = head.size >= 0 && head.size <= longest && head.rank >= 0 && head.rank < static_cast<std::int32_t>(peers_.size());
      if (!whole || peer.received.size() < sizeof head + static_cast<std::size_t>(head.size)) break;
      const auto text = peer.received.substr(sizeof head, static_cast<std::size_t>(head.size));
      peer.received.erase(0, sizeof head + text.size());
      hear(static_cast<char>(head.kind), head.rank, text);
    }
    if (whole) return;
    bool expected = false;
    const char* how = " ended without a word";
    {
      const std::scoped_lock lock(sending_, mutex_);         // who sends must not meet a number that another file has got
      peer.link = {};
      expected = peer.left >= 0;
      if (peer.is_deaf) how = " does not read what it is told";
    }
    if (!expected) hear('F', static_cast<int>(from), concat("rank ", from, how));
  }
  void hear(char kind, int about, const std::string& text) {
    {
      const std::lock_guard lock(mutex_);
      auto& peer = peers_[static_cast<std::size_t>(about)];
      if (kind == 'F' && cause_.empty()) cause_ = text;
      if (kind == 'L') peer.left = number_in(text);
      if (kind == '!') peer.come_to = number_in(text);
      if (kind == 'C') peer.said.push_back(text);
    }
    if (rank_ == 0) say(kind, about, text);
    if (kind == '?') say('!', rank_, bytes_of(come_to_));
    changed_.notify_all();
    told_();
  }

  int rank_;
  std::function<void()> told_;
  detail::Descriptor wake_, listener_{};
  std::vector<Peer> peers_;                                  // rank 0 has links to all, the others to rank 0
  std::vector<Peer> newcomers_{};                            // have connected to rank 0, and not said yet who they are
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::mutex sending_;
  std::string cause_;
  std::atomic<std::int64_t> come_to_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace rookery
