// The chosen instruction set and threads, for every binding.
#pragma once

#include <c10/util/FunctionRef.h>

#include "instruction_sets.h"
#include "../simd/team.h"

namespace nfkern {

const InstructionSet& instruction_set();

// Calls `part(i)` for i in [0, count), in parallel if torch has several threads.
void over_parts(int64_t count, c10::function_ref<void(int64_t)> part);

// Calls `part(begin, end)` for ranges of rows, in parallel if torch has several threads and the rows are worth it.
void over_rows(int64_t rows, int64_t smallest, c10::function_ref<void(int64_t, int64_t)> part);

// The number of members that a team may have now.
int64_t team_size();

// Calls `work` once for every member of a team of up to `members`, all at the same time. It must not throw.
void as_team(int64_t members, c10::function_ref<void(const Team&)> work);

template <class T>
const Kernels<T>& kernels(const InstructionSet& set = instruction_set()) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return set.float32;
  } else {
    return set.float64;
  }
}

}  // namespace nfkern
