// What the launchers of global_avg_max_pool and upsampled_pool share.
#pragma once

#include "global_avg_max_pool.cuh"
#include "launch.h"

namespace afa {

// The poolings of a map of that layout, of which make(tiling, parts) leaves the parts; a thread has `pack` elements of
// a row.
template <class T, class F>
void pool(const Checker& check, const Launcher& launch, const Layout& layout, int pack, const Tensor& avg,
          const Tensor& max, const Tensor& index, const F& make) {
  using Acc = acc_t<T>;
  constexpr int64_t SPLITS = 256;  // of an image in channels_last, at most
  const int64_t size = layout.batch * layout.channels;
  T *means = check.flat<T>("avg", avg, size), *maxima = check.flat<T>("max", max, size);
  auto* indices = check.flat<int64_t>("index", index, size);
  const Tiling tiling = tiling_of(layout, pack, layout.channels_last ? SPLITS : INT32_MAX);
  const int64_t count = layout.channels_last ? tiling.splits : tiling.chunks;
  const Tensor sums = scratch<Acc>(avg, count * size), largest = scratch<Acc>(avg, count * size);
  const Tensor places = scratch<int64_t>(avg, count * size);
  const Parts<Acc> parts{data_of<Acc>(sums), data_of<Acc>(largest), data_of<int64_t>(places)};
  make(tiling, parts);
  launch(pool_finish<T>, layout.batch * ceil_div(layout.channels, FINISHED), parts, count, layout.channels,
         layout.pixels, means, maxima, indices);
}

}  // namespace afa
