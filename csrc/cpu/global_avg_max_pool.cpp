// global_avg_max_pool on the CPU: the mean and the first maximum of every channel, from one read.
//
// Tiles of pixels are reduced on their own and then combined in order. The largest of a tile is found first and then
// looked for.
#include <limits>

#include "rows.h"
#include "tiles.h"

namespace afa {
namespace {

constexpr Checker check{"global_avg_max_pool"};
constexpr int64_t TILE = 4096, CHANNELS_LAST_TILE = 256;  // pixels

// What is known of one channel of a tile: the sum, the maximum or the last NaN, and its first pixel.
template <class Acc>
struct Partial {
  std::unique_ptr<Acc[]> sum, largest;
  std::unique_ptr<int32_t[]> index;  // from the first pixel of the tile

  explicit Partial(int64_t size)
      : sum(uninitialized<Acc>(size)), largest(uninitialized<Acc>(size)), index(uninitialized<int32_t>(size)) {}
};

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

// A channel's contiguous pixels, in four parts side by side: one sum alone would wait for itself.
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

// The channels of contiguous pixels, pixel by pixel.
template <class T, class Acc>
void reduce_pixels(const Map<const T>& x, int64_t n, int64_t first, int64_t count, int64_t channels, Acc* buffer,
                   Acc* __restrict sums, Acc* __restrict largest, int32_t* __restrict index) {
  std::fill_n(sums, channels, Acc(0));
  std::fill_n(largest, channels, -std::numeric_limits<Acc>::infinity());
  std::fill_n(index, channels, 0);
  for_each_pixels(x, n, first, count, channels, buffer, [&](const auto& pixels, int64_t p) {
    const auto at = static_cast<int32_t>(p);
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      Acc best = largest[c];
      int32_t found = index[c];
      pixels.each(c, [&](Acc value, int64_t k) {
        const bool better = (value > best) | (value != value);
        best = better ? value : best;
        found = better ? at + static_cast<int32_t>(k) : found;
      });
      sums[c] += pixels.sum(c);
      largest[c] = best;
      index[c] = found;
    }
  });
}

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& x, const Tensor& avg, const Tensor& max, const Tensor& index) {
  const Layout layout(x);
  const int64_t batch = layout.batch, channels = layout.channels, pixels = layout.pixels;
  check.pixels("x", x);
  const auto map = check.map<const T>("x", x, layout);
  T *means = check.flat<T>("avg", avg, batch * channels), *maxima = check.flat<T>("max", max, batch * channels);
  auto* indices = check.flat<int64_t>("index", index, batch * channels);
  const int64_t size = layout.channels_last ? CHANNELS_LAST_TILE : TILE, tiles = ceil_div(pixels, size);
  Partial<Acc> partial(batch * tiles * channels);  // (N, tiles, C)
  if (layout.channels_last) {
    for_each_tile<Acc>(batch, pixels, size, UNROLL * channels, [&](const Piece& tile, Acc* buffer) {
      const int64_t at = tile.unit * channels;
      reduce_pixels(map, tile.n, tile.first, tile.count, channels, buffer, &partial.sum[at], &partial.largest[at],
                    &partial.index[at]);
    });
  } else {
    for_each_row<Acc>(layout, size, size, [&](const Piece& piece, Acc* buffer) {
      const int64_t at = (piece.n * tiles + piece.first / size) * channels + piece.row;
      const Acc* row = widened(map.at(piece.n, piece.row, piece.first), piece.count, buffer);
      reduce_row(row, piece.count, partial.sum[at], partial.largest[at], partial.index[at]);
    });
  }

  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      Acc largest = -std::numeric_limits<Acc>::infinity();
      int64_t found = 0;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t at = (n * tiles + t) * channels + c;
        const Acc value = partial.largest[at];
        sum += partial.sum[at];
        if (value > largest || value != value) {
          largest = value;
          found = t * size + partial.index[at];
        }
      }
      means[n * channels + c] = static_cast<T>(static_cast<Acc>(sum / static_cast<double>(pixels)));
      maxima[n * channels + c] = static_cast<T>(largest);
      indices[n * channels + c] = found;
    }
  }
}

template <class T, class Acc = acc_t<T>>
void backward(const std::optional<Tensor>& grad_avg, const std::optional<Tensor>& grad_max, const Tensor& index,
              const Tensor& grad_x) {
  const Layout layout(grad_x);
  const int64_t batch = layout.batch, channels = layout.channels, pixels = layout.pixels;
  const auto dx = check.map<T>("grad_x", grad_x, layout);
  const auto* indices = check.flat<const int64_t>("index", index, batch * channels);
  const T* of_mean = check.flat<const T>("grad_avg", grad_avg, batch * channels);
  const T* of_maximum = check.flat<const T>("grad_max", grad_max, batch * channels);
  for (int64_t i = 0; i < batch * channels; ++i)
    STD_TORCH_CHECK(0 <= indices[i] && indices[i] < pixels, check.op, ": index must be of one of ", pixels,
                    " pixels, got ", indices[i]);
  back_with_huge_pages(grad_x);
  const auto spread = [&](int64_t i) { return of_mean ? static_cast<Acc>(of_mean[i]) / static_cast<Acc>(pixels) : 0; };
  const auto at_maximum = [&](int64_t i) { return static_cast<T>(spread(i) + static_cast<Acc>(of_maximum[i])); };

  if (layout.channels_last) {
    for_each_tile<T>(batch, pixels, CHANNELS_LAST_TILE, channels, [&](const Piece& tile, T* row) {
      const int64_t first = tile.first, last = first + tile.count;
      for (int64_t c = 0; c < channels; ++c) row[c] = static_cast<T>(spread(tile.n * channels + c));
      for (int64_t p = first; p < last; ++p) std::copy_n(row, channels, dx.at(tile.n, 0, p));
      for (int64_t c = 0; of_maximum && c < channels; ++c) {
        const int64_t i = tile.n * channels + c, p = indices[i];
        if (first <= p && p < last) *dx.at(tile.n, c, p) = at_maximum(i);
      }
    });
  } else {
    const int64_t grain = ceil_div(2 * TILE, std::max<int64_t>(1, pixels));
    for_each_piece<T>(batch, channels, pixels, pixels, grain, 0, [&](const Piece& channel, T*) {
      const int64_t i = channel.n * channels + channel.row;
      T* row = dx.at(channel.n, channel.row, 0);
      std::fill_n(row, pixels, static_cast<T>(spread(i)));
      if (of_maximum) row[indices[i]] = at_maximum(i);
    });
  }
}

void global_avg_max_pool_forward(Tensor x, Tensor avg, Tensor max, Tensor index) {
  dispatch(x.scalar_type(), check.op, [&](auto t) { forward<decltype(t)>(x, avg, max, index); });
}

void global_avg_max_pool_backward(std::optional<Tensor> grad_avg, std::optional<Tensor> grad_max, Tensor index,
                                  Tensor grad_x) {
  dispatch(grad_x.scalar_type(), check.op, [&](auto t) { backward<decltype(t)>(grad_avg, grad_max, index, grad_x); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("global_avg_max_pool_forward", TORCH_BOX(&afa::global_avg_max_pool_forward));
  m.impl("global_avg_max_pool_backward", TORCH_BOX(&afa::global_avg_max_pool_backward));
}
