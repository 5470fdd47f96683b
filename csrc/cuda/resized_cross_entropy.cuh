// The backward kernel of resized_cross_entropy. The gradient of the resized logits is nowhere stored: a thread has a
// pixel of the logits and goes over the outputs that read it, of each of which it computes the scores once more.
#pragma once

#include "cross_entropy.cuh"

namespace afa {

constexpr int DIFFERENTIATED = 2;  // channels of a thread

// An output lies in a cell between four neighbouring inputs. A pixel of the logits is a corner of four cells; of each
// in turn a thread holds the corners in registers, channels first, first + lanes, ...
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    backward_of_cells(Canvas canvas, int64_t parts, Resized<T> logits, CrossEntropy<Acc> gradient, Map<T> dx) {
  constexpr int count = DIFFERENTIATED;
  const Spot spot(canvas, parts);
  if (!spot.inside) return;
  const int64_t first = spot.part * canvas.lanes * count + spot.lane;
  const Axis<Acc>&rows = logits.resize.rows, &columns = logits.resize.columns;
  const int32_t first_row = rows.first(spot.y), last_row = rows.last(spot.y);
  const int32_t first_column = columns.first(spot.x), last_column = columns.last(spot.x);
  const auto read = [&](int32_t y, int32_t x, Acc(&values)[count]) {
    const T* at = logits.data + spot.n * logits.sn + (static_cast<int64_t>(y) * canvas.width + x) * logits.sp;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int64_t c = first + i * canvas.lanes;
      values[i] = c < canvas.channels ? static_cast<Acc>(at[c * logits.sc]) : Acc(0);
    }
  };
  Acc sums[count] = {};
  const auto add = [&](int64_t p, Acc coefficient, const Acc(&scores)[count]) {
    const ScoreGradient<Acc> grad = gradient.of(spot.n, p);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int64_t c = first + i * canvas.lanes;
      if (c < canvas.channels) sums[i] += coefficient * grad(c, scores[i]);
    }
  };

  if (logits.resize.identity) {
    Acc scores[count];
    read(spot.y, spot.x, scores);
    add(spot.p, Acc(1), scores);
  }
  for (int cell = 0; cell < 4 && !logits.resize.identity; ++cell) {
    const int32_t top = spot.y - 1 + cell / 2, left = spot.x - 1 + cell % 2;
    if (top < 0 || left < 0) continue;
    const int32_t bottom = rows.high({top, 0}), right = columns.high({left, 0});
    Acc top_left[count], top_right[count], bottom_left[count], bottom_right[count];
    read(top, left, top_left);
    read(top, right, top_right);
    read(bottom, left, bottom_left);
    read(bottom, right, bottom_right);
    for (int32_t row = first_row; row <= last_row; ++row) {
      Acc of_row, of_column;
      const Source<Acc> down = rows.source(row);
      if (down.low != top || !rows.share(row, spot.y, of_row)) continue;
      Acc lefts[count], rights[count];
#pragma unroll
      for (int i = 0; i < count; ++i) {
        lefts[i] = (1 - down.fraction) * top_left[i] + down.fraction * bottom_left[i];
        rights[i] = (1 - down.fraction) * top_right[i] + down.fraction * bottom_right[i];
      }
      for (int32_t column = first_column; column <= last_column; ++column) {
        const Source<Acc> across = columns.source(column);
        if (across.low != left || !columns.share(column, spot.x, of_column)) continue;
        Acc scores[count];
#pragma unroll
        for (int i = 0; i < count; ++i) scores[i] = (1 - across.fraction) * lefts[i] + across.fraction * rights[i];
        add(static_cast<int64_t>(row) * columns.out + column, of_row * of_column, scores);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int64_t c = first + i * canvas.lanes;
    if (c < canvas.channels) dx.data[spot.n * dx.sn + c * dx.sc + spot.p * dx.sp] = static_cast<T>(sums[i]);
  }
}

}  // namespace afa
