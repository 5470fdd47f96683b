// What the operations with a batch norm of a map launch alike: the kernels of batch_norm.cuh.
#include "batch_norm.h"

namespace afa {

template <class T>
void statistics(const Launcher& launch, const Hidden<T>& hidden, const Tensor& like, acc_t<T>* mean,
                acc_t<T>* variance) {
  using Acc = acc_t<T>;
  const Layout& layout = hidden.layout;
  const Tiling tiling = hidden.tiling();
  const PixelParts parts = hidden.parts(tiling);
  const int64_t size = parts.batch * parts.count * layout.channels;
  const Tensor memory = scratch<Acc>(like, 2 * size);
  Acc *means = data_of<Acc>(memory), *squares = means + size;
  dispatch_packed<T>(
      [&](auto packed) {
        if (layout.channels_last)
          launch(statistics_of_columns<T, packed>, tiling.blocks(), tiling, hidden.rows, means, squares);
        else
          launch(statistics_of_rows<T, packed>, tiling.blocks(), tiling, parts, hidden.rows, means, squares);
      },
      aligned(hidden.rows, layout));
  launch(finish_statistics<Acc>, ceil_div(layout.channels, COLUMNS), parts, layout.channels, means, squares, mean,
         variance);
}

template <class Acc>
Norm<Acc> NormRows<Acc>::norm(const Launcher& launch, double slope, Acc* scale, const Acc* known_mean,
                              const Acc* known_variance) const {
  launch(make_scales<Acc>, ceil_div(channels, THREADS), channels, known_mean, known_variance, mean, variance, gamma,
         scale);
  return {mean, scale, beta, static_cast<Acc>(slope)};
}

template <class Acc>
void NormRows<Acc>::finish(const Launcher& launch, int64_t parts, int64_t pixels, const Acc* sums, const Acc* weights,
                           const ParameterGradients<Acc>& grads, const Coefficients<Acc>& coefficients) const {
  launch(finish_norm_sums<Acc>, ceil_div(channels, COLUMNS), parts, channels, static_cast<double>(pixels), sums,
         variance, gamma, weights, grads, coefficients);
}

template struct NormRows<float>;
template struct NormRows<double>;

template void statistics(const Launcher&, const Hidden<float>&, const Tensor&, float*, float*);
#ifndef AFA_FLOAT32_ONLY
template void statistics(const Launcher&, const Hidden<double>&, const Tensor&, double*, double*);
template void statistics(const Launcher&, const Hidden<Half>&, const Tensor&, float*, float*);
template void statistics(const Launcher&, const Hidden<BFloat16>&, const Tensor&, float*, float*);
#endif

}  // namespace afa
