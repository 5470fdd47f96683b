// Kernels of the operations with a batch norm of a map, y = (z - mean) scale + beta and r = y > 0 ? y : slope y, and
// what others of theirs are made of.
//
// Channels are rows (NCHW) or lie along them (channels_last). Sums over pixels are taken of a part in the arithmetic
// type, and over the parts, in order, in float64.
#pragma once

#include "../arithmetic/norm.h"
#include "device.h"

namespace afa {

constexpr int COLUMNS = 8;  // channels of a block that adds up parts: 32 neighbouring bytes of float32

template <class Acc>
struct NormOfChannel {
  Acc mean, scale, beta, slope;

  __device__ Acc rectify(Acc z) const {
    const Acc y = (z - mean) * scale + beta;
    return slope == 0 ? rectified<false>(y, y, slope) : rectified<true>(y, y, slope);
  }
  __device__ NormSums<Acc> sums(Acc z, Acc grad) const {
    return slope == 0 ? norm_sums<false>(z, grad, mean, scale, beta, slope)
                      : norm_sums<true>(z, grad, mean, scale, beta, slope);
  }
};

// Rows of a value a channel.
template <class Acc>
struct Norm {
  const Acc *mean, *scale, *beta;
  Acc slope;

  __device__ NormOfChannel<Acc> at(int64_t c) const { return {mean[c], scale[c], beta[c], slope}; }
};

// What `scale` is made of, beside the variance.
template <class Acc>
struct Gamma {
  const Acc* weight;
  double eps;
  bool abs_weight;
};

// scale = gamma / sqrt(variance + eps) of every channel, a thread each. Statistics that are known are copied first.
template <class Acc>
__global__ void __launch_bounds__(THREADS)
    make_scales(int64_t channels, const Acc* __restrict__ known_mean, const Acc* __restrict__ known_variance,
                Acc* __restrict__ mean, Acc* __restrict__ variance, Gamma<Acc> gamma, Acc* __restrict__ scale) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (c >= channels) return;
  if (known_mean != nullptr) {
    mean[c] = known_mean[c];
    variance[c] = known_variance[c];
  }
  scale[c] = static_cast<Acc>(inverse_deviation(variance[c], gamma.eps) *
                              norm_weight(gamma.weight[c], gamma.eps, gamma.abs_weight));
}

// Parts of the pixels of each image: `size` pixels each, the last one those that are left.
struct PixelParts {
  int64_t batch, count, size, pixels;

  __device__ int64_t pixels_of(int64_t part) const {
    const int64_t left = pixels - part % count * size;
    return left < size ? left : size;
  }
};

// Channels are rows: a part is a chunk of one. means[n][part][channel], and the squared deviations from it summed up.
template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS) statistics_of_rows(Tiling tiling, PixelParts parts, Rows<const T> z,
                                                              Acc* __restrict__ means, Acc* __restrict__ squares) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  const auto count = static_cast<Acc>(parts.pixels_of(place.chunk));
  for (int32_t step = 0; step < tiling.steps; ++step) {
    const int64_t row = place.row + static_cast<int64_t>(step) * place.at_once;
    const bool inside = row < place.last_row;  // every thread takes part in the shuffles
    Acc values[pack] = {}, sum = 0, sum_of_squares = 0;
    if (inside) load(z.at(place.n, row), place, values);
#pragma unroll
    for (int i = 0; i < pack; ++i) sum += values[i];
    const Acc mean = sum_over(sum, tiling.lanes) / count;
#pragma unroll
    for (int i = 0; i < pack; ++i)
      if (place.inside(i)) sum_of_squares += (values[i] - mean) * (values[i] - mean);
    sum_of_squares = sum_over(sum_of_squares, tiling.lanes);
    if (!inside || place.lane != 0) continue;
    const int64_t at = (place.n * tiling.chunks + place.chunk) * tiling.rows + row;
    means[at] = mean;
    squares[at] = sum_of_squares;
  }
}

// Channels lie along the rows: a part is a split of the pixels, of which every thread has some, one after the other.
template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, READING)
    statistics_of_columns(Tiling tiling, Rows<const T> z, Acc* __restrict__ means, Acc* __restrict__ squares) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  Acc mean[pack] = {}, sum_of_squares[pack] = {};
  Acc seen = 0;
  for_each_row(z, place, [&](const Acc(&values)[pack]) {
    const Acc share = 1 / ++seen;
#pragma unroll
    for (int i = 0; i < pack; ++i) {
      const Acc deviation = values[i] - mean[i];
      mean[i] += deviation * share;
      sum_of_squares[i] += deviation * (values[i] - mean[i]);
    }
  });
  AFA_SHARED(double, counts, THREADS);
  AFA_SHARED(double, shared_means, THREADS);
  AFA_SHARED(double, shared_squares, THREADS);
#pragma unroll
  for (int i = 0; i < pack; ++i) {
    Moments moments{seen, mean[i], sum_of_squares[i]};
    for (int32_t d = THREADS / 2; d >= tiling.lanes; d /= 2) {
      counts[threadIdx.x] = moments.count;
      shared_means[threadIdx.x] = moments.mean;
      shared_squares[threadIdx.x] = moments.squares;
      __syncthreads();
      const int32_t other = threadIdx.x + d;
      if (threadIdx.x < d && counts[other] > 0) moments.add(counts[other], shared_means[other], shared_squares[other]);
      __syncthreads();
    }
    if (threadIdx.x < tiling.lanes && place.inside(i)) {
      const int64_t at = (place.n * tiling.splits + place.split) * tiling.length + place.element(i);
      means[at] = static_cast<Acc>(moments.mean);
      squares[at] = static_cast<Acc>(moments.squares);
    }
  }
}

// A block has COLUMNS channels, and for each of them every COLUMNS-th of its threads.
struct Column {
  int64_t c;
  int32_t first;  // of the parts that this thread adds up; the next is `apart` further
  static constexpr int32_t apart = THREADS / COLUMNS;

  __device__ Column()
      : c(static_cast<int64_t>(blockIdx.x) * COLUMNS + threadIdx.x % COLUMNS), first(threadIdx.x / COLUMNS) {}

  // The sum over the threads of a channel, in order, which all of them get.
  __device__ double sum(double value) const {
    AFA_SHARED(double, shared, THREADS);
    __syncthreads();  // the last sum has been read
    shared[threadIdx.x] = value;
    __syncthreads();
    double total = 0;
    for (int other = threadIdx.x % COLUMNS; other < THREADS; other += COLUMNS) total += shared[other];
    return total;
  }
};

// The mean and the variance of every channel: of the means of the parts, and of what deviates from it.
template <class Acc>
__global__ void __launch_bounds__(THREADS)
    finish_statistics(PixelParts parts, int64_t channels, const Acc* __restrict__ means,
                      const Acc* __restrict__ squares, Acc* __restrict__ mean, Acc* __restrict__ variance) {
  const Column column;
  const int64_t count = column.c < channels ? parts.batch * parts.count : 0;
  const double pixels = static_cast<double>(parts.batch * parts.pixels);
  double sum = 0, sum_of_squares = 0;
  for (int64_t k = column.first; k < count; k += Column::apart)
    sum += static_cast<double>(parts.pixels_of(k)) * means[k * channels + column.c];
  const double center = column.sum(sum) / pixels;
  for (int64_t k = column.first; k < count; k += Column::apart) {
    const double deviation = means[k * channels + column.c] - center;
    sum_of_squares += squares[k * channels + column.c] + parts.pixels_of(k) * deviation * deviation;
  }
  sum_of_squares = column.sum(sum_of_squares);
  if (column.first != 0 || column.c >= channels) return;
  mean[column.c] = static_cast<Acc>(center);
  variance[column.c] = static_cast<Acc>(sum_of_squares / pixels);
}

template <bool packed, int pack, class Acc>
__device__ void read_norms(const Norm<Acc>& norm, const Place<packed, pack>& place, NormOfChannel<Acc> (&of)[pack]) {
#pragma unroll
  for (int i = 0; i < pack; ++i) of[i] = place.inside(i) ? norm.at(place.element(i)) : NormOfChannel<Acc>{};
}

// Sums over pixels, arrays one after the other: passed[n][part][channel], deviations likewise and, if it `projects`,
// projected. Channels are rows: a part is a chunk of one. read(row, values) gives those of g.
template <bool projects, class T, bool packed, int pack, class Read, class Acc = acc_t<T>>
__device__ void sums_of_rows(const Tiling& tiling, const Place<packed, pack>& place, const Rows<const T>& z,
                             const Norm<Acc>& norm, Acc* sums, const Read& read) {
  const int64_t size = tiling.batch * tiling.chunks * tiling.rows;
  for (int32_t step = 0; step < tiling.steps; ++step) {
    const int64_t row = place.row + static_cast<int64_t>(step) * place.at_once;
    const bool inside = row < place.last_row;  // every thread takes part in the shuffles
    NormSums<Acc> total{};
    if (inside) {
      Acc values[pack], gs[pack];
      load(z.at(place.n, row), place, values);
      read(row, gs);
      const NormOfChannel<Acc> of = norm.at(row);
#pragma unroll
      for (int i = 0; i < pack; ++i)
        if (place.inside(i)) total = total + of.sums(values[i], gs[i]);
    }
    total.passed = sum_over(total.passed, tiling.lanes);
    total.deviations = sum_over(total.deviations, tiling.lanes);
    if constexpr (projects) total.projected = sum_over(total.projected, tiling.lanes);
    if (!inside || place.lane != 0) continue;
    Acc* const at = sums + (place.n * tiling.chunks + place.chunk) * tiling.rows + row;
    at[0] = total.passed;
    at[size] = total.deviations;
    if constexpr (projects) at[2 * size] = total.projected;
  }
}

// Channels lie along the rows: a part is a split of the pixels.
template <bool projects, class T, bool packed, int pack, class Read, class Acc = acc_t<T>>
__device__ void sums_of_columns(const Tiling& tiling, const Place<packed, pack>& place, const Rows<const T>& z,
                                const Norm<Acc>& norm, Acc* sums, const Read& read) {
  const int64_t size = tiling.batch * tiling.splits * tiling.length;
  NormOfChannel<Acc> of[pack];
  read_norms(norm, place, of);
  Acc projected[pack] = {}, passed[pack] = {}, deviations[pack] = {};
  for (int64_t row = place.row; row < place.last_row; row += place.at_once) {
    Acc values[pack], gs[pack];
    load(z.at(place.n, row), place, values);
    read(row, gs);
#pragma unroll
    for (int i = 0; i < pack; ++i) {
      const NormSums<Acc> of_pixel = of[i].sums(values[i], gs[i]);
      projected[i] += of_pixel.projected;
      passed[i] += of_pixel.passed;
      deviations[i] += of_pixel.deviations;
    }
  }
  store_sums_of_rows(passed, place, tiling, sums);
  __syncthreads();  // the next sums go through the same memory
  store_sums_of_rows(deviations, place, tiling, sums + size);
  if constexpr (projects) {
    __syncthreads();
    store_sums_of_rows(projected, place, tiling, sums + 2 * size);
  }
}

// dz = w scale g' + constant + of_deviation (z - mean), with g' = y > 0 ? g : slope g: rows of a value a channel, which
// come from the statistics, and are null where those are no function of z; w is 1 where there are no weights.
template <class Acc>
struct Coefficients {
  Acc *constant, *of_deviation;
};

// Gradients of the parameters; null where they are not needed.
template <class Acc>
struct ParameterGradients {
  Acc *weight, *bias, *project;
};

// From the sums of `parts` parts in all, the gradients of the parameters and the coefficients.
template <class Acc>
__global__ void __launch_bounds__(THREADS)
    finish_norm_sums(int64_t parts, int64_t channels, double pixels, const Acc* __restrict__ sums,
                     const Acc* __restrict__ variance, Gamma<Acc> gamma, const Acc* __restrict__ weights,
                     ParameterGradients<Acc> grads, Coefficients<Acc> coefficients) {
  const Column column;
  const int64_t count = column.c < channels ? parts : 0, size = parts * channels;
  const bool projects = weights != nullptr;
  NormSums<double> total{};
  for (int64_t k = column.first; k < count; k += Column::apart) {
    const Acc* const at = sums + k * channels + column.c;
    total = total + NormSums<double>{projects ? at[2 * size] : 0, at[0], at[size]};
  }
  total = {column.sum(total.projected), column.sum(total.passed), column.sum(total.deviations)};
  if (column.first != 0 || column.c >= channels) return;
  const int64_t c = column.c;
  const double deviation = inverse_deviation(variance[c], gamma.eps), weight = gamma.weight[c];
  const double scale = deviation * norm_weight(weight, gamma.eps, gamma.abs_weight);
  const double factor = projects ? weights[c] : 1;
  const double of_beta = factor * total.passed, of_gamma = factor * total.deviations * deviation;
  const double of_weight = !gamma.abs_weight || weight > 0 ? of_gamma : weight < 0 ? -of_gamma : 0;
  if (grads.weight != nullptr) grads.weight[c] = static_cast<Acc>(of_weight);
  if (grads.bias != nullptr) grads.bias[c] = static_cast<Acc>(of_beta);
  if (grads.project != nullptr) grads.project[c] = static_cast<Acc>(total.projected);
  if (coefficients.constant == nullptr) return;
  coefficients.constant[c] = static_cast<Acc>(-scale * of_beta / pixels);
  coefficients.of_deviation[c] = static_cast<Acc>(-scale * deviation * of_gamma / pixels);
}

// The gradient of an element, of what there is of its channel.
template <class Acc>
struct Differential {
  NormOfChannel<Acc> norm;
  Acc of_grad, constant, of_deviation;

  __device__ Acc operator()(Acc z, Acc grad, bool batch_statistics) const {
    const Acc deviation = z - norm.mean, y = deviation * norm.scale + norm.beta;
    const Acc passed = norm.slope == 0 ? rectified<false>(y, grad, norm.slope) : rectified<true>(y, grad, norm.slope);
    return batch_statistics ? of_grad * passed + (constant + of_deviation * deviation) : of_grad * passed;
  }
};

template <class Acc>
struct Differentials {
  Norm<Acc> norm;
  const Acc* weights;
  Coefficients<Acc> coefficients;

  __device__ bool batch_statistics() const { return coefficients.constant != nullptr; }
  __device__ Differential<Acc> at(int64_t c) const {
    const NormOfChannel<Acc> of = norm.at(c);
    const Acc of_grad = weights == nullptr ? of.scale : of.scale * weights[c];
    return batch_statistics() ? Differential<Acc>{of, of_grad, coefficients.constant[c], coefficients.of_deviation[c]}
                              : Differential<Acc>{of, of_grad, 0, 0};
  }
};

// Of the channels, what lies along a row is read once. read(row, values) gives the values of g.
template <bool channels_last, class T, bool packed, int pack, class Read, class Acc = acc_t<T>>
__device__ void differentiate(const Place<packed, pack>& place, const Rows<const T>& z,
                              const Differentials<Acc>& differentials, const Rows<T>& dz, const Read& read) {
  const bool batch_statistics = differentials.batch_statistics();
  Differential<Acc> of[channels_last ? pack : 1] = {};
  if constexpr (channels_last) {
#pragma unroll
    for (int i = 0; i < pack; ++i)
      if (place.inside(i)) of[i] = differentials.at(place.element(i));
  }
  for (int64_t row = place.row; row < place.last_row; row += place.at_once) {
    Acc values[pack], gs[pack];
    load(z.at(place.n, row), place, values);
    read(row, gs);
    if constexpr (!channels_last) of[0] = differentials.at(row);
#pragma unroll
    for (int i = 0; i < pack; ++i) values[i] = of[channels_last ? i : 0](values[i], gs[i], batch_statistics);
    store(dz.at(place.n, row), place, values);
  }
}

}  // namespace afa
