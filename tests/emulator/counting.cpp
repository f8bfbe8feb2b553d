#include "counting.h"

#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "emulator.h"

namespace emulator {
namespace {

constexpr unsigned kSectorBytes = 32;  // what global memory is read and written in
constexpr unsigned kBanks = 32, kBankBytes = 4;

enum class Space : unsigned char { kGlobal, kShared };

struct Place {
  const void* site;
  Space space;
  Access access;
  auto operator<=>(const Place&) const = default;
};

// What the lanes of a warp ask for together: one place, the `turn`-th time in one epoch.
struct Request {
  unsigned warp;
  Place place;
  uint64_t epoch;
  unsigned turn;
  auto operator<=>(const Request&) const = default;
};

struct Lane {
  Request request;
  uintptr_t address;
  unsigned bytes;
  unsigned lane;
  auto operator<=>(const Lane&) const = default;
};

struct Total {
  uint64_t requests = 0;
  uint64_t lanes = 0;
  uint64_t units = 0;  // sectors, or wavefronts
  uint64_t ideal = 0;  // as many as would hold the bytes asked for
};

using Sectors = std::array<std::unordered_set<uintptr_t>, 3>;  // touched, by Access

struct LaunchCounts {
  std::string operator_name;
  uintptr_t kernel;
  uint64_t blocks = 0, barriers = 0;
  std::map<Place, Total> places{};
  Sectors sectors{};
  uint64_t sectors_of_blocks = 0;  // touched by each block
};

struct Thread {
  uint64_t epoch = 0;  // changes where the thread meets others
  std::unordered_map<const void*, std::pair<uint64_t, unsigned>> turns;  // of a place: epoch, next
};

bool on, in_block;
std::vector<std::pair<uintptr_t, uintptr_t>> ranges;  // of the call's tensors
std::vector<LaunchCounts> launches;
std::span<const unsigned char> shared_memory;
Sectors block_sectors;
std::vector<Thread> threads(kMaxThreads);
uint64_t last_meeting;
std::vector<Lane> open;  // the lanes whose requests may still get more of them

uintptr_t number(const void* address) { return reinterpret_cast<uintptr_t>(address); }

void add_global(std::span<const Lane> lanes, Total& total, std::unordered_set<uintptr_t>& touched) {
  uintptr_t end = 0, next_sector = 0;
  uint64_t bytes = 0;
  for (const Lane& lane : lanes) {  // by address
    const uintptr_t lane_end = lane.address + lane.bytes;
    if (lane_end > end) bytes += lane_end - std::max(end, lane.address);
    end = std::max(end, lane_end);
    uintptr_t sector = std::max(next_sector, lane.address / kSectorBytes);
    for (; sector <= (lane_end - 1) / kSectorBytes; ++sector) {
      ++total.units;
      touched.insert(sector);
    }
    next_sector = std::max(next_sector, sector);
  }
  total.ideal += (bytes + kSectorBytes - 1) / kSectorBytes;
}

// Of 8 bytes a lane, half a warp is served at a time; of 16 bytes, a quarter.
void add_shared(std::span<const Lane> lanes, Total& total) {
  std::array<std::vector<uintptr_t>, 4> words;
  for (const Lane& lane : lanes) {
    const unsigned at_once = lane.bytes <= 4 ? 32 : lane.bytes <= 8 ? 16 : 8;
    const uintptr_t offset = lane.address - number(shared_memory.data());
    for (uintptr_t word = offset / kBankBytes; word <= (offset + lane.bytes - 1) / kBankBytes;
         ++word) {
      words[lane.lane / at_once].push_back(word);
    }
  }
  for (std::vector<uintptr_t>& part : words) {
    std::ranges::sort(part);
    part.erase(std::unique(part.begin(), part.end()), part.end());
    std::array<unsigned, kBanks> of_bank{};
    for (const uintptr_t word : part) ++of_bank[word % kBanks];
    total.units += std::ranges::max(of_bank);
    total.ideal += (part.size() + kBanks - 1) / kBanks;
  }
}

// Everyone has met: no request gets more lanes.
void close_requests() {
  std::ranges::sort(open);
  LaunchCounts& launch = launches.back();
  for (auto first = open.begin(); first != open.end();) {
    const auto last = std::find_if(
        first, open.end(), [&](const Lane& lane) { return lane.request != first->request; });
    const std::span lanes(first, last);
    const Place place = first->request.place;
    Total& total = launch.places[place];
    ++total.requests;
    total.lanes += lanes.size();
    if (place.space == Space::kGlobal) {
      add_global(lanes, total, block_sectors[static_cast<size_t>(place.access)]);
    } else {
      add_shared(lanes, total);
    }
    first = last;
  }
  open.clear();
}

void meet() {
  close_requests();
  last_meeting += uint64_t{1} << 32;  // leaves room for warp operations
  for (Thread& thread : threads) thread.epoch = last_meeting;
}

void record_range(Access access, const void* address, size_t bytes, const void* site) {
  // The compiler asks for more than 16 bytes, or fewer than are aligned, at once where members of a
  // plain struct are copied: a GPU reads each by itself.
  const size_t piece = number(address) % 4 == 0 && bytes % 4 == 0 ? 4 : 1;
  for (size_t i = 0; i < bytes; i += piece) {
    record(access, static_cast<const char*>(address) + i, piece, site);
  }
}

}  // namespace

void record(Access access, const void* address, size_t bytes, const void* site) {
  if (!in_block) return;
  const uintptr_t first = number(address), shared = number(shared_memory.data());
  Place place{site, Space::kShared, access};
  if (first < shared || first >= shared + shared_memory.size()) {
    const auto holds = [&](const auto& range) {
      return first >= range.first && first < range.second;
    };
    if (std::ranges::none_of(ranges, holds)) return;
    place.space = Space::kGlobal;
  }
  const auto rank = static_cast<unsigned>(emulator::rank());
  Thread& thread = threads[rank];
  auto& [epoch, turn] = thread.turns[site];
  if (epoch != thread.epoch) turn = 0;
  epoch = thread.epoch;
  open.push_back({{rank / warpSize, place, epoch, turn++},
                  first,
                  static_cast<unsigned>(bytes),
                  rank % warpSize});
}

namespace counting {

void begin_launch(const char* operator_name, const void* kernel) {
  if (!on) return;
  Dl_info module;
  dladdr(kernel, &module);
  launches.push_back({operator_name, number(kernel) - number(module.dli_fbase)});
}

void begin_block(std::span<const unsigned char> shared) {
  if (!on) return;
  open.clear();
  shared_memory = shared;
  in_block = true;
}

void pass_barrier() {
  if (!on) return;
  ++launches.back().barriers;
  meet();
}

void pass_warp_operation() {
  if (on) ++threads[static_cast<unsigned>(rank())].epoch;
}

void end_block() {
  if (!on) return;
  in_block = false;
  LaunchCounts& launch = launches.back();
  ++launch.blocks;
  meet();
  for (size_t access = 0; access < block_sectors.size(); ++access) {
    launch.sectors_of_blocks += block_sectors[access].size();
    launch.sectors[access].merge(block_sectors[access]);
    block_sectors[access].clear();
  }
}

void bind(pybind11::module_& module) {
  namespace py = pybind11;
  module.def(
      "start_counting",
      [](std::vector<std::pair<uintptr_t, uintptr_t>> tensors) {
        ranges = std::move(tensors);
        launches.clear();
        on = true;
      },
      py::arg("tensors"));
  // A launch: (operator, kernel, blocks, barriers, sectors touched by each block, sectors touched
  // by reads, writes, atomics, places). A place: (site, shared, access, requests, lanes, units,
  // ideal). Kernels and sites are offsets in the module's file.
  module.def("stop_counting", [] {
    on = in_block = false;
    Dl_info module;
    dladdr(reinterpret_cast<const void*>(&record), &module);
    py::list result;
    for (const LaunchCounts& launch : launches) {
      py::list places;
      for (const auto& [place, total] : launch.places) {
        places.append(py::make_tuple(number(place.site) - number(module.dli_fbase),
                                     place.space == Space::kShared, static_cast<int>(place.access),
                                     total.requests, total.lanes, total.units, total.ideal));
      }
      result.append(py::make_tuple(launch.operator_name, launch.kernel, launch.blocks,
                                   launch.barriers, launch.sectors_of_blocks,
                                   launch.sectors[0].size(), launch.sectors[1].size(),
                                   launch.sectors[2].size(), places));
    }
    return result;
  });
}

}  // namespace counting
}  // namespace emulator

// What GCC calls under -fsanitize=thread. `address` is about to be accessed.
extern "C" {

#define COUNT(access, name, bytes)                                                           \
  void __tsan_##name(void* address) {                                                        \
    emulator::record(emulator::Access::access, address, bytes, __builtin_return_address(0)); \
  }
COUNT(kRead, read1, 1)
COUNT(kRead, read2, 2)
COUNT(kRead, read4, 4)
COUNT(kRead, read8, 8)
COUNT(kRead, read16, 16)
COUNT(kWrite, write1, 1)
COUNT(kWrite, write2, 2)
COUNT(kWrite, write4, 4)
COUNT(kWrite, write8, 8)
COUNT(kWrite, write16, 16)
#undef COUNT

void __tsan_read_range(void* address, size_t bytes) {
  emulator::record_range(emulator::Access::kRead, address, bytes, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t bytes) {
  emulator::record_range(emulator::Access::kWrite, address, bytes, __builtin_return_address(0));
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// Guards of static variables are read by it.
char __tsan_atomic8_load(const volatile char* address, int) {
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}

}  // extern "C"
