// What the launchers of the operations with a batch norm of a map share. What they all launch is in batch_norm.cu,
// once.
#pragma once

#include "batch_norm.cuh"
#include "launch.h"

namespace afa {

template <class T>
struct Hidden {
  using Acc = acc_t<T>;
  Layout layout;
  Rows<const T> rows;

  Hidden(const Checker& check, const Tensor& hidden)
      : layout(hidden), rows(rows_of(check.map<const T>("hidden", hidden, layout), layout)) {}

  // For sums over pixels: those of a part, and how many parts an image has.
  Tiling tiling() const {
    constexpr int64_t SPLITS = 256;  // of the pixels of an image in channels_last, at most
    return tiling_of(layout, PACK<T>, layout.channels_last ? SPLITS : INT32_MAX);
  }
  PixelParts parts(const Tiling& t) const {
    if (layout.channels_last) return {t.batch, t.splits, THREADS / t.lanes * static_cast<int64_t>(t.steps), t.rows};
    return {t.batch, t.chunks, static_cast<int64_t>(t.lanes) * PACK<T>, t.length};
  }
};

// The mean and the variance of every channel.
template <class T>
void statistics(const Launcher& launch, const Hidden<T>& hidden, const Tensor& like, acc_t<T>* mean,
                acc_t<T>* variance);

// The parameters and the statistics, rows in the arithmetic type.
template <class Acc>
struct NormRows {
  int64_t channels;
  Gamma<Acc> gamma;
  const Acc* beta;
  Acc *mean, *variance;

  NormRows(const Checker& check, const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& variance,
           int64_t channels, double eps, bool abs_weight)
      : channels(channels),
        gamma{check.flat<const Acc>("weight", weight, channels), eps, abs_weight},
        beta(check.flat<const Acc>("bias", bias, channels)),
        mean(check.flat<Acc>("mean", mean, channels)),
        variance(check.flat<Acc>("variance", variance, channels)) {}

  // With `scale` made; statistics that are known are copied first.
  Norm<Acc> norm(const Launcher& launch, double slope, Acc* scale, const Acc* known_mean = nullptr,
                 const Acc* known_variance = nullptr) const;

  // From the sums over `pixels` pixels, of `parts` parts, the gradients of the parameters and the coefficients.
  void finish(const Launcher& launch, int64_t parts, int64_t pixels, const Acc* sums, const Acc* weights,
              const ParameterGradients<Acc>& grads, const Coefficients<Acc>& coefficients) const;
};

}  // namespace afa
