// The mean and the first maximum of every channel. Tiles of pixels are reduced on their own and then combined in order.
#pragma once

#include <limits>

#include "rows.h"
#include "tiles.h"

namespace afa {

constexpr int64_t TILE = 4096, CHANNELS_LAST_TILE = 256;  // pixels

// The first of `count` values that equals `value`, which is among them.
template <class Acc>
int64_t find(const Acc* row, int64_t count, Acc value) {
  constexpr int64_t block = 64;
  int64_t i = 0;
  for (; i + block <= count; i += block) {
    int32_t found = 0;
    for (int64_t j = 0; j < block; ++j) found |= row[i + j] == value;
    if (found) break;
  }
  while (row[i] != value) ++i;
  return i;
}

// A channel's contiguous pixels, in four parts side by side: one sum alone would wait for itself. The largest is found
// first and then looked for.
template <class Acc>
void reduce_row(const Acc* row, int64_t count, Acc& sum_out, Acc& largest_out, int32_t& index_out) {
  constexpr Acc least = -std::numeric_limits<Acc>::infinity();
  const int64_t quarter = count / 4;
  const Acc *r1 = row + quarter, *r2 = r1 + quarter, *r3 = r2 + quarter;
  Acc s0 = 0, s1 = 0, s2 = 0, s3 = 0, m0 = least, m1 = least, m2 = least, m3 = least;
#pragma omp simd reduction(+ : s0, s1, s2, s3) reduction(max : m0, m1, m2, m3)
  for (int64_t i = 0; i < quarter; ++i) {
    s0 += row[i], s1 += r1[i], s2 += r2[i], s3 += r3[i];
    m0 = row[i] > m0 ? row[i] : m0;
    m1 = r1[i] > m1 ? r1[i] : m1;
    m2 = r2[i] > m2 ? r2[i] : m2;
    m3 = r3[i] > m3 ? r3[i] : m3;
  }
  Acc sum = (s0 + s1) + (s2 + s3), largest = std::max(std::max(m0, m1), std::max(m2, m3));
  for (int64_t i = 4 * quarter; i < count; ++i) {
    sum += row[i];
    largest = row[i] > largest ? row[i] : largest;
  }
  int64_t index = -1;
  if (sum != sum)  // a NaN among them, of which the last counts; or infinities of both signs
    for (index = count - 1; index >= 0 && row[index] == row[index];) --index;
  largest_out = index < 0 ? largest : row[index];
  index_out = static_cast<int32_t>(index < 0 ? find(row, count, largest) : index);
  sum_out = sum;
}

// What is known of the channels of one tile: the sum, the maximum or the last NaN, and its first pixel, counted from
// the first of the tile.
template <class Acc>
struct Channels {
  int64_t count;
  Acc *sum, *largest;
  int32_t* index;

  void clear() const {
    std::fill_n(sum, count, Acc(0));
    std::fill_n(largest, count, -std::numeric_limits<Acc>::infinity());
    std::fill_n(index, count, 0);
  }

  // Takes in the channels of contiguous pixels, pixel by pixel; the first of them is the tile's pixel `from`.
  template <class T>
  void add(const Map<const T>& x, int64_t n, int64_t first, int64_t pixels, int64_t from, Acc* buffer) const {
    Acc* __restrict sums = sum;
    Acc* __restrict maxima = largest;
    int32_t* __restrict indices = index;
    const int64_t channels = count;
    for_each_pixels(x, n, first, pixels, channels, buffer, [&](const auto& values, int64_t p) {
      const auto at = static_cast<int32_t>(from + p);
#pragma GCC ivdep
      for (int64_t c = 0; c < channels; ++c) {
        Acc best = maxima[c];
        int32_t found = indices[c];
        values.each(c, [&](Acc value, int64_t k) {
          const bool better = (value > best) | (value != value);
          best = better ? value : best;
          found = better ? at + static_cast<int32_t>(k) : found;
        });
        sums[c] += values.sum(c);
        maxima[c] = best;
        indices[c] = found;
      }
    });
  }
};

// What is known of all tiles of `size` pixels: (N, tiles, C).
template <class Acc>
struct Partial {
  int64_t pixels, size, tiles, channels;
  std::unique_ptr<Acc[]> sum, largest;
  std::unique_ptr<int32_t[]> index;

  Partial(int64_t batch, int64_t pixels, int64_t size, int64_t channels)
      : pixels(pixels),
        size(size),
        tiles(ceil_div(pixels, size)),
        channels(channels),
        sum(uninitialized<Acc>(batch * tiles * channels)),
        largest(uninitialized<Acc>(batch * tiles * channels)),
        index(uninitialized<int32_t>(batch * tiles * channels)) {}

  Channels<Acc> of_tile(int64_t unit) const {
    const int64_t at = unit * channels;
    return {channels, &sum[at], &largest[at], &index[at]};
  }

  // The tile is a piece of a channel's row.
  void reduce_row(const Piece& piece, const Acc* row) const {
    const int64_t at = (piece.n * tiles + piece.first / size) * channels + piece.row;
    afa::reduce_row(row, piece.count, sum[at], largest[at], index[at]);
  }
};

// The outputs.
template <class T>
struct Pooled {
  int64_t batch, channels;
  T *avg, *max;
  int64_t* index;

  Pooled(const Checker& check, const Tensor& avg, const Tensor& max, const Tensor& index, int64_t batch,
         int64_t channels)
      : batch(batch),
        channels(channels),
        avg(check.flat<T>("avg", avg, batch * channels)),
        max(check.flat<T>("max", max, batch * channels)),
        index(check.flat<int64_t>("index", index, batch * channels)) {}

  template <class Acc>
  void store(const Partial<Acc>& partial) const {
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t c = 0; c < channels; ++c) {
        double sum = 0;
        Acc largest = -std::numeric_limits<Acc>::infinity();
        int64_t found = 0;
        for (int64_t t = 0; t < partial.tiles; ++t) {
          const int64_t at = (n * partial.tiles + t) * channels + c;
          const Acc value = partial.largest[at];
          sum += partial.sum[at];
          if (value > largest || value != value) {
            largest = value;
            found = t * partial.size + partial.index[at];
          }
        }
        avg[n * channels + c] = static_cast<T>(static_cast<Acc>(sum / static_cast<double>(partial.pixels)));
        max[n * channels + c] = static_cast<T>(largest);
        index[n * channels + c] = found;
      }
    }
  }
};

// Where the maxima are, of maps of so many pixels.
inline const int64_t* indices_of(const Checker& check, const Tensor& index, int64_t count, int64_t pixels) {
  const auto* indices = check.flat<const int64_t>("index", index, count);
  for (int64_t i = 0; i < count; ++i)
    STD_TORCH_CHECK(0 <= indices[i] && indices[i] < pixels, check.op, ": index must be of one of ", pixels,
                    " pixels, got ", indices[i]);
  return indices;
}

}  // namespace afa
