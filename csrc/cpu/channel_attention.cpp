// channel_attention on the CPU: logits = W2 (r(max) + r(avg)), with r(v) = leaky ReLU of the batch norm of W1 v; by
// constant statistics or by those of the batch, and its gradients. The parameters come in the arithmetic type.
#include "../arithmetic/norm.h"
#include "rows.h"
#include "tiles.h"

namespace afa {
namespace {

constexpr Checker check{"channel_attention"};

// The norm of a hidden unit: y = (z - mean) scale + beta, scale = gamma deviation; and the leaky ReLU of it.
template <class Acc>
struct UnitNorm {
  Acc mean, deviation, scale, beta, slope;

  // `value` as the leaky ReLU of y lets it through.
  Acc rectify(Acc y, Acc value) const {
    return slope == 0 ? rectified<false>(y, value, slope) : rectified<true>(y, value, slope);
  }
  Acc y(Acc z) const { return (z - mean) * scale + beta; }
  Acc activation(Acc z) const { return rectify(y(z), y(z)); }
};

template <class T>
struct Attention {
  using Acc = acc_t<T>;
  int64_t batch, inputs, hidden, outputs;
  const Acc *w1, *w2, *gamma, *beta;
  const T *avg, *max;
  double eps;
  Acc slope;
  bool abs_weight;

  Attention(const Tensor& avg_rows, const Tensor& max_rows, const Tensor& conv1_weight, const Tensor& weight,
            const Tensor& bias, const Tensor& conv2_weight, double eps, double activation_slope, bool abs_weight)
      : batch(avg_rows.size(0)),
        inputs(conv1_weight.size(1)),
        hidden(conv1_weight.size(0)),
        outputs(conv2_weight.size(0)),
        w1(check.flat<const Acc>("conv1_weight", conv1_weight, hidden * inputs)),
        w2(check.flat<const Acc>("conv2_weight", conv2_weight, outputs * hidden)),
        gamma(check.flat<const Acc>("weight", weight, hidden)),
        beta(check.flat<const Acc>("bias", bias, hidden)),
        avg(check.flat<const T>("avg", avg_rows, batch * inputs)),
        max(check.flat<const T>("max", max_rows, batch * inputs)),
        eps(eps),
        slope(static_cast<Acc>(activation_slope)),
        abs_weight(abs_weight) {}

  template <class Value>
  UnitNorm<Value> norm(int64_t m, Value mean, Value variance) const {
    const double deviation = inverse_deviation(variance, eps);
    return {mean, static_cast<Value>(deviation), static_cast<Value>(deviation * norm_weight(gamma[m], eps, abs_weight)),
            beta[m], slope};
  }

  // Calls body(n, buffer) for every image; `buffer` has room for two rows of inputs, or for one of outputs.
  template <class F>
  void for_each_image(const F& body) const {
    const int64_t grain = ceil_div(WORTH_A_THREAD, std::max<int64_t>(1, hidden * (inputs + outputs)));
    for_each_piece<Acc>(1, 1, batch, 1, grain, std::max(2 * inputs, outputs),
                        [&](const Piece& image, Acc* buffer) { body(image.first, buffer); });
  }

  // W1 v of an image, summed in the type of the results.
  template <class Sum>
  void hidden_units(int64_t n, Acc* buffer, Sum* of_max, Sum* of_avg) const {
    const Acc* v_max = widened(max + n * inputs, inputs, buffer);
    const Acc* v_avg = widened(avg + n * inputs, inputs, buffer + inputs);
    for (int64_t m = 0; m < hidden; ++m) {
      const Acc* w = w1 + m * inputs;
      Sum z_max = 0, z_avg = 0;
#pragma omp simd reduction(+ : z_max, z_avg)
      for (int64_t c = 0; c < inputs; ++c) {
        z_max += static_cast<Sum>(w[c]) * v_max[c];
        z_avg += static_cast<Sum>(w[c]) * v_avg[c];
      }
      of_max[m] = z_max;
      of_avg[m] = z_avg;
    }
  }

  void logits(const Acc* units, T* out) const {
    for (int64_t o = 0; o < outputs; ++o) {
      const Acc* w = w2 + o * hidden;
      Acc sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t m = 0; m < hidden; ++m) sum += w[m] * units[m];
      out[o] = static_cast<T>(sum);
    }
  }
};

template <class T, class Acc = acc_t<T>>
void forward(const Attention<T>& of, const Acc* mean, const Acc* variance, T* logits) {
  std::vector<UnitNorm<Acc>> norms;
  for (int64_t m = 0; m < of.hidden; ++m) norms.push_back(of.norm(m, mean[m], variance[m]));
  const auto all = uninitialized<Acc>(2 * of.batch * of.hidden);
  of.for_each_image([&](int64_t n, Acc* buffer) {
    Acc *units = &all[2 * n * of.hidden], *of_avg = units + of.hidden;
    of.hidden_units(n, buffer, units, of_avg);
    for (int64_t m = 0; m < of.hidden; ++m) units[m] = norms[m].activation(units[m]) + norms[m].activation(of_avg[m]);
    of.logits(units, logits + n * of.outputs);
  });
}

// Of the maximum, and of the average, in all images: (N, hidden) each.
template <class Acc>
struct Branches {
  std::unique_ptr<Acc[]> memory;
  std::array<Acc*, 2> rows;

  explicit Branches(int64_t size) : memory(uninitialized<Acc>(2 * size)), rows{memory.get(), memory.get() + size} {}
};

// Of a unit, in all images.
template <class Value>
Moments moments_of(const Value* values, int64_t batch, int64_t hidden) {
  Moments moments;
  for (int64_t n = 0; n < batch; ++n) moments.add(1, values[n * hidden], 0);
  return moments;
}

// By statistics of the batch, which are written, (2, hidden), of the maximum first.
template <class T, class Acc = acc_t<T>>
void by_batch(const Attention<T>& of, T* logits, Acc* mean, Acc* variance) {
  const int64_t batch = of.batch, hidden = of.hidden;
  const Branches<Acc> z(batch * hidden);
  of.for_each_image(
      [&](int64_t n, Acc* buffer) { of.hidden_units(n, buffer, z.rows[0] + n * hidden, z.rows[1] + n * hidden); });
  std::vector<UnitNorm<Acc>> norms;
  for (int branch : {0, 1}) {
    for (int64_t m = 0; m < hidden; ++m) {
      const Moments moments = moments_of(z.rows[branch] + m, batch, hidden);
      const int64_t at = branch * hidden + m;
      mean[at] = static_cast<Acc>(moments.mean);
      variance[at] = static_cast<Acc>(moments.squares / moments.count);
      norms.push_back(of.norm(m, mean[at], variance[at]));
    }
  }
  of.for_each_image([&](int64_t n, Acc*) {
    Acc *units = z.rows[0] + n * hidden, *of_avg = z.rows[1] + n * hidden;
    for (int64_t m = 0; m < hidden; ++m)
      units[m] = norms[m].activation(units[m]) + norms[hidden + m].activation(of_avg[m]);
    of.logits(units, logits + n * of.outputs);
  });
}

// Null where none is needed.
template <class T>
struct Results {
  std::array<T*, 2> pooled;  // of the maximum and of the average
  acc_t<T>*conv1, *weight, *bias, *conv2;
};

// From z and from the gradient of the units, of all images: the gradients of gamma and beta, in `grad_hidden` those of
// z, and the units in the place of their gradient. In float64, and with the statistics of a batch made anew: of two
// images what passes the norm is the small difference of large numbers. Else these are constant, (hidden,).
template <class T, class Acc = acc_t<T>>
void differentiate_units(const Attention<T>& of, const Acc* mean, const Acc* variance, bool batch_statistics,
                         const Branches<double>& z, Acc* units, const Branches<Acc>& grad_hidden,
                         const Results<T>& results) {
  const int64_t batch = of.batch, hidden = of.hidden;
  for (int64_t m = 0; m < hidden; ++m) {
    double of_gamma = 0, of_beta = 0;
    for (int branch : {0, 1}) {
      double* values = z.rows[branch] + m;
      Acc* grads = grad_hidden.rows[branch] + m;
      const Moments moments = batch_statistics ? moments_of(values, batch, hidden) : Moments{1, mean[m], variance[m]};
      const UnitNorm<double> norm = of.norm(m, moments.mean, moments.squares / moments.count);
      double passed = 0, deviations = 0;
      const auto of_y = [&](int64_t i) { return norm.rectify(norm.y(values[i]), static_cast<double>(units[m + i])); };
      const auto normalised = [&](int64_t i) { return (values[i] - norm.mean) * norm.deviation; };
      for (int64_t i = 0; i < batch * hidden; i += hidden) {
        passed += of_y(i);
        deviations += of_y(i) * normalised(i);
      }
      const double share = 1 / static_cast<double>(batch);
      for (int64_t i = 0; i < batch * hidden; i += hidden) {
        const double of_statistics = batch_statistics ? share * passed + normalised(i) * (share * deviations) : 0.0;
        grads[i] = static_cast<Acc>(norm.scale * (of_y(i) - of_statistics));
      }
      for (int64_t i = 0; i < batch * hidden; i += hidden) values[i] = norm.activation(values[i]);
      of_gamma += deviations;
      of_beta += passed;
    }
    for (int64_t i = m; i < batch * hidden; i += hidden) units[i] = static_cast<Acc>(z.rows[0][i] + z.rows[1][i]);
    const Acc gamma = of.gamma[m], sign = !of.abs_weight || gamma > 0 ? 1 : gamma < 0 ? -1 : 0;
    if (results.weight) results.weight[m] = static_cast<Acc>(sign * of_gamma);
    if (results.bias) results.bias[m] = static_cast<Acc>(of_beta);
  }
}

template <class T, class Acc = acc_t<T>>
void differentiate(const Attention<T>& of, const T* grad, const Acc* mean, const Acc* variance, bool batch_statistics,
                   const Results<T>& results) {
  const int64_t batch = of.batch, inputs = of.inputs, hidden = of.hidden, outputs = of.outputs;
  const Branches<double> z(batch * hidden);
  const Branches<Acc> grad_hidden(batch * hidden);
  const auto units = uninitialized<Acc>(batch * hidden);  // their gradients at first
  of.for_each_image([&](int64_t n, Acc* buffer) {
    of.hidden_units(n, buffer, z.rows[0] + n * hidden, z.rows[1] + n * hidden);
    const Acc* g = widened(grad + n * outputs, outputs, buffer);
    Acc* sums = &units[n * hidden];
    std::fill_n(sums, hidden, Acc(0));
    for (int64_t o = 0; o < outputs; ++o) add_weighted(g[o], hidden, of.w2 + o * hidden, sums);
  });
  differentiate_units<T>(of, mean, variance, batch_statistics, z, units.get(), grad_hidden, results);
  const std::array<const T*, 2> pooled{of.max, of.avg};
  of.for_each_image([&](int64_t n, Acc* sums) {
    for (int branch : {0, 1}) {
      if (!results.pooled[branch]) continue;
      std::fill_n(sums, inputs, Acc(0));
      const Acc* g = grad_hidden.rows[branch] + n * hidden;
      for (int64_t m = 0; m < hidden; ++m) add_weighted(g[m], inputs, of.w1 + m * inputs, sums);
      narrow(sums, inputs, results.pooled[branch] + n * inputs);
    }
  });
  // Not in parallel: the rows of the weights add up over the images.
  std::vector<Acc> buffer(std::max(inputs, outputs));
  if (results.conv1) std::fill_n(results.conv1, hidden * inputs, Acc(0));
  if (results.conv2) std::fill_n(results.conv2, outputs * hidden, Acc(0));
  vectorized([&] {
    for (int64_t n = 0; n < batch; ++n) {
      for (int branch = 0; results.conv1 && branch < 2; ++branch) {
        const Acc* row = widened(pooled[branch] + n * inputs, inputs, buffer.data());
        const Acc* g = grad_hidden.rows[branch] + n * hidden;
        for (int64_t m = 0; m < hidden; ++m) add_weighted(g[m], inputs, row, results.conv1 + m * inputs);
      }
      if (!results.conv2) continue;
      const Acc* g = widened(grad + n * outputs, outputs, buffer.data());
      for (int64_t o = 0; o < outputs; ++o) add_weighted(g[o], hidden, &units[n * hidden], results.conv2 + o * hidden);
    }
  });
}

void channel_attention_forward(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias,
                               Tensor running_mean, Tensor running_var, Tensor conv2_weight, double eps,
                               double activation_slope, bool abs_weight, Tensor logits) {
  dispatch(avg.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Attention<T> of(avg, max, conv1_weight, weight, bias, conv2_weight, eps, activation_slope, abs_weight);
    forward<T>(of, check.flat<const Acc>("running_mean", running_mean, of.hidden),
               check.flat<const Acc>("running_var", running_var, of.hidden),
               check.flat<T>("logits", logits, of.batch * of.outputs));
  });
}

void channel_attention_by_batch(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias,
                                Tensor conv2_weight, double eps, double activation_slope, bool abs_weight,
                                Tensor logits, Tensor mean, Tensor variance) {
  dispatch(avg.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Attention<T> of(avg, max, conv1_weight, weight, bias, conv2_weight, eps, activation_slope, abs_weight);
    by_batch<T>(of, check.flat<T>("logits", logits, of.batch * of.outputs),
                check.flat<Acc>("mean", mean, 2 * of.hidden), check.flat<Acc>("variance", variance, 2 * of.hidden));
  });
}

void channel_attention_differentiate(Tensor grad, Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight,
                                     Tensor bias, Tensor mean, Tensor variance, Tensor conv2_weight,
                                     bool batch_statistics, double eps, double activation_slope, bool abs_weight,
                                     std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(avg.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Attention<T> of(avg, max, conv1_weight, weight, bias, conv2_weight, eps, activation_slope, abs_weight);
    const int64_t statistics = batch_statistics ? 2 * of.hidden : of.hidden;
    const Gradients all = check.spread(grads, needed, 6);
    const Results<T> results{{check.flat<T>("grad of max", all[1], of.batch * of.inputs),
                              check.flat<T>("grad of avg", all[0], of.batch * of.inputs)},
                             check.flat<Acc>("grad of conv1_weight", all[2], of.hidden * of.inputs),
                             check.flat<Acc>("grad of weight", all[3], of.hidden),
                             check.flat<Acc>("grad of bias", all[4], of.hidden),
                             check.flat<Acc>("grad of conv2_weight", all[5], of.outputs * of.hidden)};
    differentiate<T>(of, check.flat<const T>("grad", grad, of.batch * of.outputs),
                     check.flat<const Acc>("mean", mean, statistics),
                     check.flat<const Acc>("variance", variance, statistics), batch_statistics, results);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("channel_attention_forward", TORCH_BOX(&afa::channel_attention_forward));
  m.impl("channel_attention_by_batch", TORCH_BOX(&afa::channel_attention_by_batch));
  m.impl("channel_attention_differentiate", TORCH_BOX(&afa::channel_attention_differentiate));
}
