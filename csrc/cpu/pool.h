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

// A channel's contiguous pixels: their sum, in several parts side by side, for one alone would wait for itself; and
// their maximum. Of the last NaN also the index, else -1.
template <class Acc>
void reduce_row(const Acc* row, int64_t count, Acc& sum_out, Acc& largest_out, int32_t& index_out) {
  constexpr int64_t lanes = 128 / sizeof(Acc);
  Acc sums[lanes], maxima[lanes];
  std::fill_n(sums, lanes, Acc(0));
  std::fill_n(maxima, lanes, -std::numeric_limits<Acc>::infinity());
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
#pragma omp simd
    for (int64_t j = 0; j < lanes; ++j) {
      sums[j] += row[i + j];
      maxima[j] = row[i + j] > maxima[j] ? row[i + j] : maxima[j];
    }
  }
  for (int64_t j = 0; i + j < count; ++j) {
    sums[j] += row[i + j];
    maxima[j] = row[i + j] > maxima[j] ? row[i + j] : maxima[j];
  }
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; ++j) {
      sums[j] += sums[j + half];
      maxima[j] = std::max(maxima[j], maxima[j + half]);
    }
  int64_t index = -1;
  if (sums[0] != sums[0])  // a NaN among them, of which the last counts; or infinities of both signs
    for (index = count - 1; index >= 0 && row[index] == row[index];) --index;
  sum_out = sums[0];
  largest_out = index < 0 ? maxima[0] : row[index];
  index_out = static_cast<int32_t>(index);
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
    const int64_t at = place(piece.n, piece.first / size, piece.row);
    afa::reduce_row(row, piece.count, sum[at], largest[at], index[at]);
  }

  // Finds the maximum in the row that `reduce_row` was given, if it has not found a NaN.
  void locate(const Piece& piece, const Acc* row) const {
    const int64_t at = place(piece.n, piece.first / size, piece.row);
    if (index[at] < 0) index[at] = static_cast<int32_t>(find(row, piece.count, largest[at]));
  }

  // The tile that has the first maximum of a channel, or its last NaN.
  int64_t best(int64_t n, int64_t c) const {
    int64_t found = 0;
    for (int64_t t = 1; t < tiles; ++t) {
      const Acc value = largest[place(n, t, c)];
      if (value > largest[place(n, found, c)] || value != value) found = t;
    }
    return found;
  }

  int64_t place(int64_t n, int64_t tile, int64_t c) const { return (n * tiles + tile) * channels + c; }
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
        for (int64_t t = 0; t < partial.tiles; ++t) sum += partial.sum[partial.place(n, t, c)];
        const int64_t tile = partial.best(n, c), at = partial.place(n, tile, c);
        avg[n * channels + c] = static_cast<T>(static_cast<Acc>(sum / static_cast<double>(partial.pixels)));
        max[n * channels + c] = static_cast<T>(partial.largest[at]);
        index[n * channels + c] = tile * partial.size + partial.index[at];
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
