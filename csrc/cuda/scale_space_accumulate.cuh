// The kernel of scale_space_accumulate: rendered += T up(weight) up(prediction) and T *= 1 - up(weight), in place.
#pragma once

#include "render.cuh"

namespace afa {

// Without `transmittance` T is 1 everywhere. The first scale finds nothing that it could read.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS) accumulate(Canvas canvas, Resized<T> prediction, Resized<Acc> weight,
                                                      bool first, AnyMap rendered, Acc* __restrict__ transmittance) {
  const Spot spot(canvas);
  Acc share = weight.value(weight.taps(spot.y, spot.x), spot.n, 0);
  if (transmittance != nullptr) {
    Acc* through = transmittance + spot.n * canvas.height * canvas.width + spot.p;
    const bool owner = spot.inside && spot.lane == 0;
    Acc left = owner ? first ? Acc(1) : *through : Acc(0);
    left = sum_over(left, canvas.lanes);  // to all threads of the pixel
    share = composite(share, false, left);
    if (owner) *through = left;
  }
  const Taps<Acc> taps = prediction.taps(spot.y, spot.x);
  for (int64_t c = spot.lane; c < canvas.channels && spot.inside; c += canvas.lanes) {
    const Acc added = share * prediction.value(taps, spot.n, c);
    rendered.write(spot.n, c, spot.p, first ? added : rendered.read<Acc>(spot.n, c, spot.p) + added);
  }
}

}  // namespace afa
