// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Liveness: a link of their own between the processes of a group, over which each learns at once that another has died or failed.
//
// Transports notice a dead peer late: Gloo, with large messages in flight, only after its whole timeout. Here every rank holds one
// idle TCP connection to rank 0, which tells all others what it hears: the kernel closes the connection of a process that dies,
// however it dies. A rank that leaves in order says so first.  Include cost: none.

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>

namespace rookery::detail {

/// A file descriptor that is closed once.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

/// Listens on a port of the system's choice. Errors: CommunicationError.
inline std::pair<Descriptor, int> listen_somewhere() {
  Descriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t size = sizeof address;
  const bool listening = listener && ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                         ::listen(listener.get(), 1024) == 0 &&
                         ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0;
  check<CommunicationError>(listening, "liveness: no port to listen on: ", std::strerror(errno));
  return {std::move(listener), ntohs(address.sin_port)};
}

/// Connects to a host and port. Errors: CommunicationError.
inline Descriptor connect_to(const std::string& host, int port) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_family = AF_INET;
  wanted.ai_socktype = SOCK_STREAM;
  const int failed = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
  check<CommunicationError>(failed == 0, "liveness: host '", host, "': ", ::gai_strerror(failed));
  Descriptor link(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const bool connected = link && ::connect(link.get(), found->ai_addr, found->ai_addrlen) == 0;
  const int reason = errno;
  ::freeaddrinfo(found);
  check<CommunicationError>(connected, "liveness: ", host, ":", port, ": ", std::strerror(reason));
  return link;
}

}  // namespace rookery::detail

namespace rookery {

/// What a rank hears of the others.
///
/// Cost:    one thread that sleeps, one connection a rank; rank 0 has one to every other.
/// Errors:  CommunicationError from the constructor when ranks do not meet before `timeout`.
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
    if (rank == 0) {
      auto [listener, port] = detail::listen_somewhere();
      meeting.publish(port);
      accept_all(listener.get(), timeout);
    } else {
      peers_[0].link = detail::connect_to(meeting.host, meeting.look_up());
      const std::int32_t self = rank;
      send_all(peers_[0], std::string_view(reinterpret_cast<const char*>(&self), sizeof self));
    }
    thread_ = std::thread([this] { listen(); });
  }
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;
  ~Liveness() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake();
    if (thread_.joinable()) thread_.join();
  }

  /// Tells all ranks that this one failed.
  void fail(std::string_view text) { say('F', rank_, text); }
  /// Tells all ranks that this one ends in order, after so many collectives.
  void leave(std::int64_t collectives) { say('L', rank_, std::to_string(collectives)); }

  /// Why the group cannot go on; empty while it can.
  std::string cause() const {
    const std::lock_guard lock(mutex_);
    return cause_;
  }
  /// The first rank that has left after fewer than `collectives`, or -1.
  int left_before(std::int64_t collectives) const {
    const std::lock_guard lock(mutex_);
    for (std::size_t rank = 0; rank < peers_.size(); ++rank)
      if (peers_[rank].left >= 0 && peers_[rank].left < collectives) return static_cast<int>(rank);
    return -1;
  }
  /// Whether every other rank has left.
  bool all_left() const {
    const std::lock_guard lock(mutex_);
    for (std::size_t rank = 0; rank < peers_.size(); ++rank)
      if (static_cast<int>(rank) != rank_ && peers_[rank].left < 0) return false;
    return true;
  }

 private:
  struct Peer {
    detail::Descriptor link{};
    std::string received{};
    std::int64_t left = -1;                                  // collectives that it took part in, once it has left
  };
  /// In front of each message: its kind, whom it is about, and the bytes that follow.
  struct Head {
    std::int32_t kind = 0, rank = 0, size = 0;
  };

  static void send_all(const Peer& peer, std::string_view bytes) {
    while (peer.link && !bytes.empty()) {
      const auto sent = ::send(peer.link.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0 && errno != EINTR) return;               // whoever is gone is noticed by its closed link
      bytes.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(sent, 0)));
    }
  }
  static std::string message(char kind, int rank, std::string_view text) {
    const Head head{kind, rank, static_cast<std::int32_t>(text.size())};
    return std::string(reinterpret_cast<const char*>(&head), sizeof head).append(text);
  }
  /// Says it to rank 0, or as rank 0 to all but the one it is about.
  void say(char kind, int about, std::string_view text) {
    const auto bytes = message(kind, about, text);
    const std::lock_guard lock(sending_);
    for (std::size_t rank = 0; rank < peers_.size(); ++rank)
      if (static_cast<int>(rank) != about) send_all(peers_[rank], bytes);
  }
  void wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
  }

  /// Rank 0 waits until every rank has connected and said who it is.
  void accept_all(int listener, std::chrono::milliseconds timeout) {
    const auto deadline = Clock::now() + timeout;
    for (std::size_t missing = peers_.size() - 1; missing > 0;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      pollfd waiting{listener, POLLIN, 0};
      if (left <= 0 || ::poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(left, 1000))) < 0) {
        std::vector<int> absent;
        for (std::size_t rank = 1; rank < peers_.size(); ++rank)
          if (!peers_[rank].link) absent.push_back(static_cast<int>(rank));
        rookery::fail<CommunicationError>("liveness: after ", timeout.count(), " ms ranks ", absent, " have not come");
      }
      if (!(waiting.revents & POLLIN)) continue;
      detail::Descriptor link(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
      std::int32_t rank = 0;
      if (!link || ::recv(link.get(), &rank, sizeof rank, MSG_WAITALL) != sizeof rank) continue;
      if (rank <= 0 || rank >= static_cast<std::int32_t>(peers_.size()) || peers_[static_cast<std::size_t>(rank)].link) continue;
      peers_[static_cast<std::size_t>(rank)].link = std::move(link);
      --missing;
    }
  }

  void listen() {
    for (;;) {
      std::vector<pollfd> waiting{{wake_.get(), POLLIN, 0}};
      std::vector<std::size_t> ranks;
      for (std::size_t rank = 0; rank < peers_.size(); ++rank)
        if (peers_[rank].link) {
          waiting.push_back({peers_[rank].link.get(), POLLIN, 0});
          ranks.push_back(rank);
        }
      if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return;
      {
        const std::lock_guard lock(mutex_);
        if (stopping_) return;
      }
      for (std::size_t i = 0; i < ranks.size(); ++i)
        if (waiting[i + 1].revents != 0) read(ranks[i]);
    }
  }
  /// Reads what a peer sent; a link that ends without a word of farewell is a death.
  void read(std::size_t from) {
    auto& peer = peers_[from];
    char bytes[4096];
    const auto count = ::recv(peer.link.get(), bytes, sizeof bytes, 0);
    if (count <= 0) {
      if (count < 0 && errno == EINTR) return;
      {
        const std::lock_guard lock(sending_);                // who sends must not meet a number that another file has got
        peer.link = {};
      }
      bool expected = false;
      {
        const std::lock_guard lock(mutex_);
        expected = peer.left >= 0;
      }
      if (!expected) hear('F', static_cast<int>(from), concat("rank ", from, " ended without a word"));
      return;
    }
    peer.received.append(bytes, static_cast<std::size_t>(count));
    Head head;
    while (peer.received.size() >= sizeof head) {
      std::memcpy(&head, peer.received.data(), sizeof head);
      const auto whole = sizeof head + static_cast<std::size_t>(head.size);
      if (peer.received.size() < whole) return;
      const auto text = peer.received.substr(sizeof head, static_cast<std::size_t>(head.size));
      peer.received.erase(0, whole);
      hear(static_cast<char>(head.kind), head.rank, text);
    }
  }
  void hear(char kind, int about, const std::string& text) {
    {
      const std::lock_guard lock(mutex_);
      if (kind == 'F' && cause_.empty()) cause_ = text;
      if (kind == 'L') peers_[static_cast<std::size_t>(about)].left = std::stoll(text);
    }
    if (rank_ == 0) say(kind, about, text);
    told_();
  }

  int rank_;
  std::function<void()> told_;
  detail::Descriptor wake_;
  std::vector<Peer> peers_;                                  // rank 0 has links to all, the others to rank 0
  mutable std::mutex mutex_;
  std::mutex sending_;
  std::string cause_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace rookery
