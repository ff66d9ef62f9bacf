// The library's threads. One job at a time: its items are claimed one by one, the caller takes part.
#pragma once

#include <type_traits>

namespace penstock {

using ItemFunction = void (*)(void* context, int item);

void set_num_threads(int count);
int num_threads();

// Runs function(context, i) once for each i in [0, items); returns when all are done. Callers hold the library's lock.
void run_items(int items, ItemFunction function, void* context);

template <typename Body>
void parallel_for(int items, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  run_items(
      items, [](void* context, int item) { (*static_cast<Plain*>(context))(item); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace penstock
