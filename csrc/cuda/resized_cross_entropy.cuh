// The backward kernel of resized_cross_entropy. The gradient of the resized logits is nowhere stored: a thread has a
// pixel of the logits and goes over the outputs that read it, of each of which it computes the scores once more.
#pragma once

#include "cross_entropy.cuh"

namespace afa {

constexpr int DIFFERENTIATED = 2;  // channels of a thread

// An output lies in a cell between four neighbouring inputs. A pixel of the logits is a corner of four cells; of each
// in turn a thread holds the corners in registers.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    backward_of_cells(Canvas canvas, Resized<T> logits, CrossEntropy<Acc> gradient, Map<T> dx) {
  constexpr int count = DIFFERENTIATED;
  const Spot spot(canvas);
  if (!spot.inside) return;
  const Axis<Acc>&rows = logits.resize.rows, &columns = logits.resize.columns;
  const int32_t first_row = rows.first(spot.y), last_row = rows.last(spot.y);
  const int32_t first_column = columns.first(spot.x), last_column = columns.last(spot.x);
  const auto read = [&](int32_t y, int32_t x, Acc(&values)[count]) {
    const T* at = logits.data + spot.n * logits.sn + spot.first * logits.sc + (y * canvas.width + x);
#pragma unroll
    for (int i = 0; i < count; ++i) values[i] = spot.first + i < spot.last ? fetch(at + i * logits.sc) : Acc(0);
  };
  Acc sums[count] = {};
  const auto add = [&](int64_t p, Acc coefficient, const Acc(&scores)[count]) {
    const ScoreGradient<Acc> grad = gradient.of(spot.n, p);
#pragma unroll
    for (int i = 0; i < count; ++i)
      if (spot.first + i < spot.last) sums[i] += coefficient * grad(spot.first + i, scores[i]);
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
    Acc corners[4][count];
    read(top, left, corners[0]);
    read(top, right, corners[1]);
    read(bottom, left, corners[2]);
    read(bottom, right, corners[3]);
    for (int32_t row = first_row; row <= last_row; ++row) {
      Acc of_row, of_column;
      const Source<Acc> down = rows.source(row);
      if (down.low != top || !rows.share(row, spot.y, of_row)) continue;
      for (int32_t column = first_column; column <= last_column; ++column) {
        const Source<Acc> across = columns.source(column);
        if (across.low != left || !columns.share(column, spot.x, of_column)) continue;
        Taps<Acc> taps;
        taps.set_shares(down.fraction, across.fraction);
        Acc scores[count];
#pragma unroll
        for (int i = 0; i < count; ++i) scores[i] = taps.sum([&](int j) { return corners[j][i]; });  // as the forward
        add(static_cast<int64_t>(row) * columns.out + column, of_row * of_column, scores);
      }
    }
  }
  T* at = dx.data + spot.n * dx.sn + spot.first * dx.sc + spot.p;
#pragma unroll
  for (int i = 0; i < count; ++i)
    if (spot.first + i < spot.last) at[i * dx.sc] = static_cast<T>(sums[i]);
}

}  // namespace afa
