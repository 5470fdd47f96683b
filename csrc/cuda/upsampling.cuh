// A map that a depthwise transposed convolution upsamples f = 2, 4 or 8 times: by strides of f, with 2f x 2f weights
// and a padding of f/2. It is stored nowhere: a pixel is made of four elements of the deep map where it is used.
//
// With t = o + f/2, i = t / f and k = t % f its row o is deep[i] weight[k] + deep[i - 1] weight[k + f], and so are its
// columns. What is outside the deep map is left out; multiplied by 0 a NaN would count.
#pragma once

#include "device.h"

namespace afa {

template <class T>
struct Upsampled {
  using Acc = acc_t<T>;
  Rows<const T> deep;
  const Acc* weight;                // (2f, 2f, C), of no more elements than 32 bits count
  int32_t channels, height, width;  // of the deep map; the upsampled one has no more pixels than 32 bits count
  int32_t shift;                    // f = 2^shift

  __device__ int32_t factor() const { return 1 << shift; }
  __device__ int32_t taps() const { return 2 << shift; }
};

// The four elements that a pixel is made of: the lower right one, the lower left, the upper right and the upper left.
struct Corner {
  int32_t last, tap;  // the first of them, and its weight of channel 0
  int32_t inside;     // a bit for each

  Corner() = default;
  template <class T>
  __device__ Corner(const Upsampled<T>& up, int64_t p, bool there) {
    const uint32_t pixel = there ? p : 0, width = up.width << up.shift;
    const int32_t f = up.factor();
    const auto y = static_cast<int32_t>(pixel / width) + f / 2, x = static_cast<int32_t>(pixel % width) + f / 2;
    const int32_t i = y >> up.shift, j = x >> up.shift, k = y & (f - 1), l = x & (f - 1);
    const int32_t columns = (j < up.width ? 1 : 0) + (j > 0 ? 2 : 0);
    last = i * up.width + j;
    tap = (k * up.taps() + l) * up.channels;
    inside = there ? (i < up.height ? columns : 0) + (i > 0 ? columns << 2 : 0) : 0;
  }

  // The same, of which nvcc must not keep all that it makes of it.
  __device__ Corner again() const {
    Corner corner;
    corner.last = anew(last);
    corner.tap = anew(tap);
    corner.inside = anew(inside);
    return corner;
  }

  __device__ bool has(int of_four) const { return inside >> of_four & 1; }
  template <class T>
  __device__ int32_t element(const Upsampled<T>& up, int of_four) const {
    return last - (of_four >> 1) * up.width - (of_four & 1);
  }
  template <class T>
  __device__ int32_t weight(const Upsampled<T>& up, int of_four) const {
    return tap + ((of_four >> 1) * up.taps() + (of_four & 1)) * up.factor() * up.channels;
  }
};

// A thread's elements of a row. Of those that it reads one at a time it has no more than it has registers for.
template <class T, bool packed>
constexpr int UPSAMPLED = packed ? PACK<T> : std::min(PACK<T>, 4);

// A thread's elements of rows of the upsampled map in NCHW: pixels of a channel, the same of every channel.
template <class T, bool packed>
class UpsampledPixels {
  using Acc = acc_t<T>;
  static constexpr int pack = UPSAMPLED<T, packed>;
  const Upsampled<T>& up_;
  const Place<packed, pack>& place_;
  Corner corners_[pack];

 public:
  __device__ UpsampledPixels(const Upsampled<T>& up, const Place<packed, pack>& place) : up_(up), place_(place) {
#pragma unroll
    for (int i = 0; i < pack; ++i) corners_[i] = Corner(up, place.element(i), place.inside(i));
  }

  __device__ void read(int64_t channel, Acc (&values)[pack]) const {
    const T* row = up_.deep.at(place_.n, channel);
    const Acc* weights = up_.weight + channel;
#pragma unroll
    for (int i = 0; i < pack; ++i) {
      const Corner corner = corners_[i].again();
      values[i] = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool inside = corner.has(j);
        const Acc element = inside ? fetch(row + corner.element(up_, j)) : Acc(0);
        values[i] += element * (inside ? fetch(weights + corner.weight(up_, j)) : Acc(0));
      }
    }
  }
};

// A thread's channels of a row of weights.
template <bool packed, class Acc, int pack>
__device__ void load_weights(const Acc* row, const Place<packed, pack>& place, Acc (&values)[pack]) {
  if constexpr (packed) {
#pragma unroll
    for (int i = 0; i < pack; i += PACK<Acc>) {
      uint4 bits{};
      if (place.inside(0)) bits = __ldg(reinterpret_cast<const uint4*>(row + place.first + i));
      memcpy(values + i, &bits, sizeof bits);
    }
  } else {
#pragma unroll
    for (int i = 0; i < pack; ++i) values[i] = place.inside(i) ? fetch(row + place.element(i)) : Acc(0);
  }
}

// The same in channels_last: channels of a pixel.
template <class T, bool packed>
class UpsampledChannels {
  using Acc = acc_t<T>;
  static constexpr int pack = UPSAMPLED<T, packed>;
  const Upsampled<T>& up_;
  const Place<packed, pack>& place_;

 public:
  __device__ UpsampledChannels(const Upsampled<T>& up, const Place<packed, pack>& place) : up_(up), place_(place) {}

  __device__ void read(int64_t pixel, Acc (&values)[pack]) const {
    const Corner corner(up_, pixel, true);
    Acc elements[4][pack];
#pragma unroll
    for (int j = 0; j < 4; ++j)  // all are read before any is used: those outside as the first of the map
      load(up_.deep.at(place_.n, corner.has(j) ? corner.element(up_, j) : 0), place_, elements[j]);
#pragma unroll
    for (int i = 0; i < pack; ++i) values[i] = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (!corner.has(j)) continue;
      Acc weights[pack];
      load_weights(up_.weight + corner.weight(up_, j), place_, weights);
#pragma unroll
      for (int i = 0; i < pack; ++i) values[i] += elements[j][i] * weights[i];
    }
  }
};

template <class T, bool packed, bool channels_last>
using UpsampledRows = std::conditional_t<channels_last, UpsampledChannels<T, packed>, UpsampledPixels<T, packed>>;

// The pixels of the upsampled map that read an element of the deep one, 2f x 2f from (y, x) on.
struct Readers {
  int32_t y, x, height, width;

  Readers() = default;
  template <class T>
  __device__ Readers(const Upsampled<T>& up, int64_t element, bool there)
      : height(up.height << up.shift), width(up.width << up.shift) {
    const uint32_t at = there ? element : 0, across = up.width;
    const int32_t f = up.factor();
    y = there ? static_cast<int32_t>(at / across) * f - f / 2 : -up.taps();  // of none that is there
    x = static_cast<int32_t>(at % across) * f - f / 2;
  }

  // That which reads with weight (k, l); -1 if it is outside.
  __device__ int32_t pixel(int32_t k, int32_t l) const {
    const int32_t row = y + k, column = x + l;
    return row >= 0 && row < height && column >= 0 && column < width ? row * width + column : -1;
  }
};

// Backward, a thread has some elements of the deep map, and collects what reaches them from the upsampled one, which
// `upstream` knows. What a weight gets from those of a block, or a warp, goes to sums[tap][n][part][c]. Either result
// may be null.
template <class T, class Upstream, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    collect_rows(Tiling tiling, Upsampled<T> up, Upstream upstream, Rows<T> d_deep, Acc* __restrict__ sums) {
  constexpr int pack = UPSAMPLED<T, false>;
  const Place<false, pack> place(tiling);
  Readers readers[pack];
#pragma unroll
  for (int i = 0; i < pack; ++i) readers[i] = Readers(up, place.element(i), place.inside(i));
  const int32_t taps = up.taps();
  for (int32_t step = 0; step < tiling.steps; ++step) {
    const int64_t row = place.row + static_cast<int64_t>(step) * place.at_once;
    const bool inside = row < place.last_row;  // every thread takes part in the sums over its warp
    const int64_t channel = inside ? row : 0;
    const auto grad_of = upstream.of_channel(place.n, channel);
    const Acc scale = upstream.scale(place.n, channel);
    Acc elements[pack], totals[pack] = {};
    load(up.deep.at(place.n, channel), place, elements);
    for (int32_t tap = 0; tap < taps * taps; ++tap) {
      const Acc weight = fetch(up.weight + static_cast<int64_t>(tap) * up.channels + channel);
      int32_t pixels[pack];
      Acc grads[pack], of_tap = 0;
#pragma unroll
      for (int i = 0; i < pack; ++i) {
        pixels[i] = readers[i].pixel(tap >> (up.shift + 1), tap & (taps - 1));
        grads[i] = pixels[i] >= 0 ? grad_of(pixels[i]) : Acc(0);
      }
#pragma unroll
      for (int i = 0; i < pack; ++i) {
        totals[i] += pixels[i] >= 0 ? weight * grads[i] : Acc(0);
        of_tap += pixels[i] >= 0 ? elements[i] * grads[i] : Acc(0);
      }
      if (sums == nullptr) continue;
      of_tap = sum_over(of_tap, tiling.lanes);
      const int64_t part = (tap * tiling.batch + place.n) * tiling.chunks + place.chunk;
      if (inside && place.lane == 0) sums[part * tiling.rows + row] = scale * of_tap;
    }
#pragma unroll
    for (int i = 0; i < pack; ++i) totals[i] *= scale;
    if (inside && d_deep.data != nullptr) store(d_deep.at(place.n, row), place, totals);
  }
}

template <class T, bool packed, class Upstream, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, packed ? READING : 1)
    collect_columns(Tiling tiling, Upsampled<T> up, Upstream upstream, Rows<T> d_deep, Acc* __restrict__ sums) {
  constexpr int pack = UPSAMPLED<T, packed>, held = std::min(16 / pack, 4);  // elements, of so many pixels at a time
  const Place<packed, pack> place(tiling);
  const auto grads_of = upstream.of_channels(place);
  Acc scales[pack];
#pragma unroll
  for (int i = 0; i < pack; ++i) scales[i] = place.inside(i) ? upstream.scale(place.n, place.element(i)) : Acc(0);
  const int32_t taps = up.taps();
  for (int32_t step = 0; step < tiling.steps; step += held) {
    const int64_t first = place.row + static_cast<int64_t>(step) * place.at_once;
    Readers readers[held];
    Acc elements[held][pack], totals[held][pack] = {};
#pragma unroll
    for (int h = 0; h < held; ++h) {
      const int64_t row = first + h * place.at_once;
      const bool inside = row < place.last_row;  // every thread takes part in the sums over its block
      readers[h] = Readers(up, row, inside);
      load(up.deep.at(place.n, inside ? row : 0), place, elements[h]);
    }
    for (int32_t tap = 0; tap < taps * taps; ++tap) {
      int32_t pixels[held];
      Acc grads[held][pack], weights[pack], of_tap[pack] = {};
#pragma unroll
      for (int h = 0; h < held; ++h) {
        pixels[h] = readers[h].pixel(tap >> (up.shift + 1), tap & (taps - 1));
        grads_of.read(pixels[h] >= 0 ? pixels[h] : 0, grads[h]);
      }
      load_weights(up.weight + static_cast<int64_t>(tap) * up.channels, place, weights);
#pragma unroll
      for (int h = 0; h < held; ++h) {
        if (pixels[h] < 0) continue;
#pragma unroll
        for (int i = 0; i < pack; ++i) {
          totals[h][i] += weights[i] * grads[h][i];
          of_tap[i] += elements[h][i] * grads[h][i];
        }
      }
      if (sums == nullptr) continue;
#pragma unroll
      for (int i = 0; i < pack; ++i) of_tap[i] *= scales[i];
      const int64_t part = tap * tiling.batch * tiling.splits * tiling.length;
      store_sums_of_rows(of_tap, place, tiling, sums + part, step > 0);
      __syncthreads();  // before the next tap's are shared
    }
    if (d_deep.data == nullptr) continue;
#pragma unroll
    for (int h = 0; h < held; ++h) {
      const int64_t row = first + h * place.at_once;
      if (row >= place.last_row) continue;
#pragma unroll
      for (int i = 0; i < pack; ++i) totals[h][i] *= scales[i];
      store(d_deep.at(place.n, row), place, totals[h]);
    }
  }
}

// The gradient of the weights, (C, 1, 2f, 2f), of any element type and strides.
struct WeightGradient {
  AnyPointer pointer;
  int64_t sc, sk, sl;
  int32_t taps;

  template <class Acc>
  __device__ void operator()(int64_t tap, int64_t c, Acc total) const {
    pointer.write(c * sc + tap / taps * sk + tap % taps * sl, total);
  }
};

}  // namespace afa
