// global_avg_max_pool on the CPU: the mean and the first maximum of every channel, from one read.
//
// Tiles of pixels are reduced on their own and then combined in order, so that no result depends on the number of
// threads. The largest of a tile is found first and then looked for.
#include <algorithm>
#include <limits>
#include <memory>

#include "../common.h"

namespace afa {
namespace {

constexpr int64_t PLANAR_TILE = 4096, CHANNELS_LAST_TILE = 256;  // pixels
constexpr int64_t UNROLL = 4;  // pixels of channels_last whose sum is added to a channel's at once

// What is known of one channel of a tile: the sum, the maximum or the last NaN, and its first pixel.
template <class Acc>
struct Partial {
  std::unique_ptr<Acc[]> sum, largest;
  std::unique_ptr<int32_t[]> index;  // from the first pixel of the tile

  explicit Partial(int64_t size) : sum(new Acc[size]), largest(new Acc[size]), index(new int32_t[size]) {}
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
                   Acc* sums, Acc* largest, int32_t* index) {
  std::fill_n(sums, channels, Acc(0));
  std::fill_n(largest, channels, -std::numeric_limits<Acc>::infinity());
  std::fill_n(index, channels, 0);
  const auto row_at = [&](int32_t i, int64_t k) {
    return widened(x.at(n, 0, first + i + k), channels, buffer + k * channels);
  };
  const auto take = [](Acc value, int32_t at, Acc& best, int32_t& found) {
    const bool better = (value > best) | (value != value);
    best = better ? value : best;
    found = better ? at : found;
  };
  int32_t i = 0;
  for (; i + UNROLL <= count; i += UNROLL) {
    const Acc *r0 = row_at(i, 0), *r1 = row_at(i, 1), *r2 = row_at(i, 2), *r3 = row_at(i, 3);
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      Acc best = largest[c];
      int32_t found = index[c];
      take(r0[c], i, best, found);
      take(r1[c], i + 1, best, found);
      take(r2[c], i + 2, best, found);
      take(r3[c], i + 3, best, found);
      sums[c] += (r0[c] + r1[c]) + (r2[c] + r3[c]);
      largest[c] = best;
      index[c] = found;
    }
  }
  for (; i < count; ++i) {
    const Acc* row = row_at(i, 0);
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      sums[c] += row[c];
      take(row[c], i, largest[c], index[c]);
    }
  }
}

template <class T>
void forward(const Tensor& x, Tensor& avg, Tensor& max, Tensor& index) {
  using Acc = acc_t<T>;
  const auto map = as_map<const T>(x, "x");
  const bool planar = map.sp == 1;
  const int64_t batch = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3);
  const int64_t tile = planar ? PLANAR_TILE : CHANNELS_LAST_TILE, tiles = ceil_div(pixels, tile);
  Partial<Acc> partial(batch * tiles * channels);  // (N, tiles, C)

  const int64_t units = batch * tiles * (planar ? channels : 1), grain = std::max<int64_t>(1, 8192 / pixels);
  torch::stable::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) {
    std::vector<Acc> buffers(std::max(tile, UNROLL * channels));
    vectorized([&] {
      Acc* buffer = buffers.data();
      for (int64_t unit = begin; unit < end; ++unit) {
        if (planar) {
          const int64_t n = unit / (channels * tiles), c = unit / tiles % channels, first = unit % tiles * tile;
          const int64_t count = std::min(tile, pixels - first), at = (n * tiles + first / tile) * channels + c;
          const Acc* row = widened(map.at(n, c, first), count, buffer);
          reduce_row(row, count, partial.sum[at], partial.largest[at], partial.index[at]);
        } else {
          const int64_t n = unit / tiles, first = unit % tiles * tile, at = unit * channels;
          reduce_pixels(map, n, first, std::min(tile, pixels - first), channels, buffer, &partial.sum[at],
                        &partial.largest[at], &partial.index[at]);
        }
      }
    });
  });

  T *means = static_cast<T*>(avg.data_ptr()), *maxima = static_cast<T*>(max.data_ptr());
  auto* indices = static_cast<int64_t*>(index.data_ptr());
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
          found = t * tile + partial.index[at];
        }
      }
      means[n * channels + c] = static_cast<T>(static_cast<Acc>(sum / static_cast<double>(pixels)));
      maxima[n * channels + c] = static_cast<T>(largest);
      indices[n * channels + c] = found;
    }
  }
}

template <class T>
void backward(const std::optional<Tensor>& grad_avg, const std::optional<Tensor>& grad_max, const Tensor& index,
              Tensor& grad_x) {
  using Acc = acc_t<T>;
  const auto dx = as_map<T>(grad_x, "grad_x");
  back_with_huge_pages(grad_x);
  const bool planar = dx.sp == 1;
  const int64_t batch = grad_x.size(0), channels = grad_x.size(1), pixels = grad_x.size(2) * grad_x.size(3);
  const auto* indices = static_cast<const int64_t*>(index.data_ptr());
  const T* of_mean = grad_avg ? static_cast<const T*>(grad_avg->data_ptr()) : nullptr;
  const T* of_maximum = grad_max ? static_cast<const T*>(grad_max->data_ptr()) : nullptr;
  const auto share = [&](int64_t i) { return of_mean ? static_cast<Acc>(of_mean[i]) / static_cast<Acc>(pixels) : 0; };
  const auto at_maximum = [&](int64_t i) { return static_cast<T>(share(i) + static_cast<Acc>(of_maximum[i])); };

  if (planar) {
    torch::stable::parallel_for(0, batch * channels, ceil_div(8192, pixels), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* row = dx.at(i / channels, i % channels, 0);
        std::fill_n(row, pixels, static_cast<T>(share(i)));
        if (of_maximum) row[indices[i]] = at_maximum(i);
      }
    });
    return;
  }
  const int64_t tiles = ceil_div(pixels, CHANNELS_LAST_TILE);
  torch::stable::parallel_for(0, batch * tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> shares(channels);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / tiles, first = unit % tiles * CHANNELS_LAST_TILE;
      const int64_t last = std::min(first + CHANNELS_LAST_TILE, pixels);
      for (int64_t c = 0; c < channels; ++c) shares[c] = static_cast<T>(share(n * channels + c));
      for (int64_t p = first; p < last; ++p) std::copy(shares.begin(), shares.end(), dx.at(n, 0, p));
      for (int64_t c = 0; of_maximum && c < channels; ++c) {
        const int64_t i = n * channels + c, p = indices[i];
        if (first <= p && p < last) *dx.at(n, c, p) = at_maximum(i);
      }
    }
  });
}

void global_avg_max_pool_forward(Tensor x, Tensor avg, Tensor max, Tensor index) {
  dispatch(x.scalar_type(), "global_avg_max_pool", [&](auto t) { forward<decltype(t)>(x, avg, max, index); });
}

void global_avg_max_pool_backward(std::optional<Tensor> grad_avg, std::optional<Tensor> grad_max, Tensor index,
                                  Tensor grad_x) {
  dispatch(grad_x.scalar_type(), "global_avg_max_pool",
           [&](auto t) { backward<decltype(t)>(grad_avg, grad_max, index, grad_x); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("global_avg_max_pool_forward", TORCH_BOX(&afa::global_avg_max_pool_forward));
  m.impl("global_avg_max_pool_backward", TORCH_BOX(&afa::global_avg_max_pool_backward));
}
