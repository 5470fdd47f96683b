// The kernel of scale_space_accumulate: rendered += T up(weight) up(prediction) and T *= 1 - up(weight), in place.
#pragma once

#include "render.cuh"

namespace afa {

// Without `transmittance` T is 1 everywhere. The first scale finds nothing that it could read.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, SAMPLING<Acc, 1>)
    accumulate(Canvas canvas, Resized<T> prediction, Resized<Acc> weight, bool first, Map<Acc> rendered,
               Acc* __restrict__ transmittance) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  Acc share = weight.read_plane(weight.taps(spot.y, spot.x), spot.n);
  if (transmittance != nullptr) {
    Acc* through = transmittance + static_cast<int64_t>(spot.n) * canvas.height * canvas.width + spot.p;
    Acc left = first ? Acc(1) : *through;
    share = composite(share, false, left);
    *through = left;
  }
  const Taps<Acc> taps = prediction.taps(spot.y, spot.x);
  for_each_channel<AT_ONCE>(spot.first, spot.last, [&](auto count, int32_t c) {
    Acc* channel = rendered.data + spot.n * rendered.sn + c * rendered.sc + spot.p;
    Acc sums[count] = {}, added[count];
#pragma unroll
    for (int i = 0; i < count && !first; ++i) sums[i] = channel[i * rendered.sc];
    prediction.read(taps, spot.n, c, added);
#pragma unroll
    for (int i = 0; i < count; ++i) channel[i * rendered.sc] = first ? share * added[i] : sums[i] + share * added[i];
  });
}

}  // namespace afa
