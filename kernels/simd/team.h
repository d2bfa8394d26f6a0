// Threads that work on the same rows together: each does its share of every step and waits for the others.
#pragma once

#include <cstdint>

namespace nfkern {

class Meeting;

struct Team {
  int index = 0, size = 1;
  Meeting* meeting = nullptr;

  bool leads() const { return index == 0; }
  // Returns when every member has called it as often; what they wrote before is then seen.
  void wait() const;

  struct Share {
    int64_t first, count;
  };
  // This member's part of `count`, in multiples of `step` but for the end.
  Share share(int64_t count, int64_t step) const {
    const int64_t steps = (count + step - 1) / step, first = steps * index / size * step;
    const int64_t last = index + 1 == size ? count : steps * (index + 1) / size * step;
    return {first, last - first};
  }
};

}  // namespace nfkern
