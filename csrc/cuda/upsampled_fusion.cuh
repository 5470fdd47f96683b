// Kernels of upsampled_fusion: those of attentive_fusion over a deep map that is upsampled, and its gradients.
#pragma once

#include "attentive_fusion.cuh"
#include "upsampling.cuh"

namespace afa {

// Of logits (N, size) the factors of x and of y: sigmoids, and what is left of 1; the other way round if `reversed`.
template <class Acc>
__global__ void __launch_bounds__(THREADS)
    fusion_factors(int64_t size, AnyRow logits, bool reversed, Gates<Acc>* __restrict__ factors) {
  const Pixel at(size);
  if (at.p >= size) return;
  const Acc z = logits.read<Acc>(at.n, at.p);
  factors[at.n * size + at.p] = Gates<Acc>(reversed ? -z : z);
}

// The same of both axes, in the place of their logits.
template <class Acc>
struct FusionFactors {
  const Gates<Acc>*along, *across;
  int64_t length, rows;

  template <class>
  __device__ Gates<Acc> factors_along(int64_t n, int64_t i) const {
    return along[n * length + i];
  }
  template <class>
  __device__ Gates<Acc> factors_across(int64_t n, int64_t row) const {
    return across[n * rows + row];
  }
};

// In NCHW a thread of 16-bit elements reads so many at once that two blocks would not leave it the registers.
template <class T, bool packed, bool channels_last, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, channels_last ? READING : 1)
    upsampled_forward(Tiling tiling, Rows<const T> x, Upsampled<T> up, FusionFactors<Acc> factors, Rows<T> out) {
  const Place<packed, UPSAMPLED<T, packed>> place(tiling);
  const UpsampledRows<T, packed, channels_last> ys(up, place);
  fuse(place, x, factors, out, [&](int64_t row, Acc(&values)[UPSAMPLED<T, packed>]) { ys.read(row, values); });
}

template <class T, bool packed, bool channels_last, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, channels_last ? READING : 1)
    upsampled_backward(Tiling tiling, Rows<const T> g, Rows<const T> x, Upsampled<T> up, FusionFactors<Acc> factors,
                       Rows<T> dx, Acc* __restrict__ sums_along, Acc* __restrict__ sums_across) {
  const Place<packed, UPSAMPLED<T, packed>> place(tiling);
  const UpsampledRows<T, packed, channels_last> ys(up, place);
  fuse_backward(tiling, place, g, x, factors, dx, Rows<T>{}, sums_along, sums_across,
                [&](int64_t row, Acc(&values)[UPSAMPLED<T, packed>]) { ys.read(row, values); });
}

// The gradient of the upsampled map, (1 - a) g, of which b is left out: it scales what is collected.
template <class T>
struct FusionUpstream {
  using Acc = acc_t<T>;
  Rows<const T> g;
  const Gates<Acc>*spatial, *channel;
  int64_t pixels, channels;

  struct OfChannel {
    const T* g;
    const Gates<Acc>* spatial;

    __device__ Acc operator()(int32_t p) const { return fetch(g + p) * spatial[p].shut; }
  };
  __device__ OfChannel of_channel(int64_t n, int64_t c) const { return {g.at(n, c), spatial + n * pixels}; }

  template <bool packed, int pack>
  struct OfChannels {
    const Rows<const T>& g;
    const Gates<Acc>* spatial;
    const Place<packed, pack>& place;

    __device__ void read(int32_t p, Acc (&values)[pack]) const {
      load(g.at(place.n, p), place, values);
      const Acc factor = spatial[p].shut;
#pragma unroll
      for (int i = 0; i < pack; ++i) values[i] *= factor;
    }
  };
  template <bool packed, int pack>
  __device__ OfChannels<packed, pack> of_channels(const Place<packed, pack>& place) const {
    return {g, spatial + place.n * pixels, place};
  }

  __device__ Acc scale(int64_t n, int64_t c) const { return channel[n * channels + c].shut; }
};

}  // namespace afa
