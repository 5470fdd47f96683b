// bn_relu_project on the CPU: logits = sum over C of w r, with y = (z - mean) scale + beta and r = y > 0 ? y : slope y.
//
// Sums over pixels are taken tile by tile in the arithmetic type, and over the tiles in order in float64. Tiles do not
// depend on the number of threads, hence neither does any result.
#include <algorithm>
#include <cmath>

#include "../common.h"

namespace afa {
namespace {

constexpr int64_t ROW = 4096;   // pixels of a channel that are worked on at a time
constexpr int64_t TILE = 1024;  // pixels that are worked on at a time with all their channels, in NCHW
constexpr int64_t BLOCK = 256;  // the same in channels_last, where sums over pixels run one by one
constexpr int64_t UNROLL = 4;   // pixels whose sum is added to a channel's at once in channels_last

// `value` where y > 0, else slope * value. ReLU lets NaN through and gives 0 for infinity, as PyTorch's.
template <bool leaky, class Acc>
inline Acc rectified(Acc y, Acc value, Acc slope) {
  if constexpr (leaky) return y > 0 ? value : slope * value;
  return y <= 0 ? Acc(0) : value;
}

// The sizes of `hidden`, how it lies in memory, and the number of values of a channel.
template <class T>
struct Hidden {
  Map<const T> map;
  int64_t batch, channels, pixels;
  bool planar;

  explicit Hidden(const Tensor& hidden)
      : map(as_map<const T>(hidden, "hidden")),
        batch(hidden.size(0)),
        channels(hidden.size(1)),
        pixels(hidden.size(2) * hidden.size(3)),
        planar(map.sp == 1) {}

  int64_t tile() const { return planar ? TILE : BLOCK; }
  int64_t tiles() const { return ceil_div(pixels, tile()); }
  double count() const { return static_cast<double>(batch * pixels); }

  // Calls body(unit, n, first pixel, pixel count) for every tile of pixels of every image.
  template <class F>
  void for_each_tile(const F& body) const {
    torch::stable::parallel_for(0, batch * tiles(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = unit % tiles() * tile();
        body(unit, unit / tiles(), first, std::min(tile(), pixels - first));
      }
    });
  }

  // Calls body(unit, n, channel, first pixel, pixel count) for every row of every channel, in the order of memory.
  template <class F>
  void for_each_row(const F& body) const {
    const int64_t rows = ceil_div(pixels, ROW);
    torch::stable::parallel_for(0, batch * channels * rows, ceil_div(ROW, pixels), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = unit % rows * ROW;
        body(unit, unit / rows / channels, unit / rows % channels, first, std::min(ROW, pixels - first));
      }
    });
  }
};

// Count, mean and sum of squared deviations of what was added, merged by Chan's formula.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  void add(double new_count, double new_mean, double new_squares) {
    const double total = count + new_count, delta = new_mean - mean;
    mean += delta * new_count / total;
    squares += new_squares + delta * delta * count * new_count / total;
    count = total;
  }
};

// Of the deviations from `center`, `sum` and `squares`, to the moments of the values.
inline void add_deviations(Moments& moments, int64_t count, double center, double sum, double squares) {
  moments.add(count, center + sum / count, squares - sum * sum / count);
}

template <class T, class Acc = acc_t<T>>
void statistics(const Hidden<T>& hidden, Acc* mean, Acc* variance) {
  const Map<const T> z = hidden.map;
  const int64_t channels = hidden.channels;
  std::vector<Moments> moments(channels);
  if (hidden.planar) {
    const int64_t rows = ceil_div(hidden.pixels, ROW);
    std::vector<Acc> parts(3 * hidden.batch * channels * rows);
    hidden.for_each_row([&](int64_t unit, int64_t n, int64_t c, int64_t first, int64_t count) {
      Acc buffer[ROW];
      vectorized([&] {
        const int64_t steps = count;
        const Acc* row = widened(z.at(n, c, first), steps, buffer);
        Acc total = 0, sum = 0, squares = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < steps; ++i) total += row[i];
        const Acc center = total / steps;
#pragma omp simd reduction(+ : sum, squares)
        for (int64_t i = 0; i < steps; ++i) {
          const Acc d = row[i] - center;
          sum += d;
          squares += d * d;
        }
        Acc* part = &parts[3 * unit];
        part[0] = center, part[1] = sum, part[2] = squares;
      });
    });
    for (int64_t unit = 0; unit < hidden.batch * channels * rows; ++unit) {
      const int64_t count = std::min(ROW, hidden.pixels - unit % rows * ROW);
      const Acc* part = &parts[3 * unit];
      add_deviations(moments[unit / rows % channels], count, part[0], part[1], part[2]);
    }
  } else {
    std::vector<Acc> parts(3 * hidden.batch * hidden.tiles() * channels);
    hidden.for_each_tile([&](int64_t unit, int64_t n, int64_t first, int64_t count) {
      std::vector<Acc> buffers(UNROLL * channels);
      vectorized([&] {
        const int64_t steps = channels;
        Acc *center = &parts[3 * unit * steps], *sum = center + steps, *squares = sum + steps;
        const auto row = [&](int64_t p, int64_t k) {
          return widened(z.at(n, 0, first + p + k), steps, &buffers[k * steps]);
        };
        int64_t p = 0;
        for (; p + UNROLL <= count; p += UNROLL) {
          const Acc *r0 = row(p, 0), *r1 = row(p, 1), *r2 = row(p, 2), *r3 = row(p, 3);
#pragma omp simd
          for (int64_t c = 0; c < steps; ++c) center[c] += (r0[c] + r1[c]) + (r2[c] + r3[c]);
        }
        for (; p < count; ++p) {
          const Acc* r = row(p, 0);
#pragma omp simd
          for (int64_t c = 0; c < steps; ++c) center[c] += r[c];
        }
        for (int64_t c = 0; c < steps; ++c) center[c] /= count;
        for (p = 0; p + UNROLL <= count; p += UNROLL) {
          const Acc *r0 = row(p, 0), *r1 = row(p, 1), *r2 = row(p, 2), *r3 = row(p, 3);
#pragma omp simd
          for (int64_t c = 0; c < steps; ++c) {
            const Acc d0 = r0[c] - center[c], d1 = r1[c] - center[c], d2 = r2[c] - center[c], d3 = r3[c] - center[c];
            sum[c] += (d0 + d1) + (d2 + d3);
            squares[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
          }
        }
        for (; p < count; ++p) {
          const Acc* r = row(p, 0);
#pragma omp simd
          for (int64_t c = 0; c < steps; ++c) {
            const Acc d = r[c] - center[c];
            sum[c] += d;
            squares[c] += d * d;
          }
        }
      });
    });
    for (int64_t unit = 0; unit < hidden.batch * hidden.tiles(); ++unit) {
      const int64_t count = std::min(BLOCK, hidden.pixels - unit % hidden.tiles() * BLOCK);
      const Acc* part = &parts[3 * unit * channels];
      for (int64_t c = 0; c < channels; ++c)
        add_deviations(moments[c], count, part[c], part[channels + c], part[2 * channels + c]);
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<Acc>(moments[c].mean);
    variance[c] = static_cast<Acc>(moments[c].squares / moments[c].count);
  }
}

// A row of a parameter or a statistic, which the caller gives in the arithmetic type.
template <class Acc>
Acc* data_of(const std::optional<Tensor>& row) {
  return row ? static_cast<Acc*>(row->data_ptr()) : nullptr;
}

template <class Acc>
struct Norm {
  const Acc *mean, *beta;
  std::vector<Acc> deviation, scale;  // 1 / sqrt(variance + eps), and gamma times that

  Norm(int64_t channels, const Acc* weight, const Acc* bias, const Acc* mean, const Acc* variance, double eps,
       bool abs_weight)
      : mean(mean), beta(bias), deviation(channels), scale(channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const double inverse = 1 / std::sqrt(static_cast<double>(variance[c]) + eps);
      deviation[c] = static_cast<Acc>(inverse);
      scale[c] = static_cast<Acc>(inverse * (abs_weight ? std::abs(static_cast<double>(weight[c])) + eps : weight[c]));
    }
  }
};

template <class T, bool leaky, class Acc = acc_t<T>>
void project(const Hidden<T>& hidden, const Norm<Acc>& norm, const Acc* weights, Acc slope, const Tensor& logits) {
  const Map<const T> z = hidden.map;
  const auto out = as_map<T>(logits, "logits");
  hidden.for_each_tile([&](int64_t, int64_t n, int64_t first, int64_t count) {
    const int64_t channels = hidden.channels;
    std::vector<Acc> buffers(hidden.planar ? 2 * count : channels + count);
    vectorized([&] {
      const int64_t steps = hidden.planar ? count : channels;
      const Acc *mean = norm.mean, *scale = norm.scale.data(), *beta = norm.beta, *w = weights, s = slope;
      Acc *buffer = buffers.data(), *sums = buffer + steps;
      if (hidden.planar) {
        for (int64_t c = 0; c < channels; ++c) {
          const Acc* row = widened(z.at(n, c, first), steps, buffer);
          const Acc mean_c = mean[c], scale_c = scale[c], beta_c = beta[c], w_c = w[c];
#pragma omp simd
          for (int64_t i = 0; i < steps; ++i) {
            const Acc y = (row[i] - mean_c) * scale_c + beta_c;
            sums[i] += w_c * rectified<leaky>(y, y, s);
          }
        }
      } else {
        for (int64_t p = 0; p < count; ++p) {
          const Acc* row = widened(z.at(n, 0, first + p), steps, buffer);
          Acc sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t c = 0; c < steps; ++c) {
            const Acc y = (row[c] - mean[c]) * scale[c] + beta[c];
            sum += w[c] * rectified<leaky>(y, y, s);
          }
          sums[p] = sum;
        }
      }
      T* row = out.at(n, 0, first);
      for (int64_t i = 0; i < count; ++i) row[i] = static_cast<T>(sums[i]);
    });
  });
}

// What a channel's gradients are made of, with g the gradient of the logits and g' = (y > 0 ? g : slope g).
struct Sums {
  double projected = 0, rectified = 0, deviations = 0;  // of g r, g', and g' (z - mean)
};

template <class T, bool leaky, class Acc = acc_t<T>>
std::vector<Sums> sums_over_pixels(const Hidden<T>& hidden, const Tensor& grad, const Norm<Acc>& norm, Acc slope) {
  const Map<const T> z = hidden.map;
  const auto g = as_map<const T>(grad, "grad");
  const int64_t channels = hidden.channels, units = hidden.batch * hidden.tiles();
  std::vector<Acc> parts(3 * units * channels);
  hidden.for_each_tile([&](int64_t unit, int64_t n, int64_t first, int64_t count) {
    std::vector<Acc> buffers(hidden.planar ? 2 * count : UNROLL * channels + count);
    vectorized([&] {
      const int64_t size = channels, steps = hidden.planar ? count : UNROLL * size;
      const Acc *mean = norm.mean, *scale = norm.scale.data(), *beta = norm.beta, s = slope;
      Acc *projected = &parts[3 * unit * size], *gated = projected + size, *deviations = gated + size;
      Acc* buffer = buffers.data();
      const Acc* gr = widened(g.at(n, 0, first), count, buffer + steps);
      if (hidden.planar) {
        for (int64_t c = 0; c < size; ++c) {
          const Acc* row = widened(z.at(n, c, first), steps, buffer);
          const Acc mean_c = mean[c], scale_c = scale[c], beta_c = beta[c];
          Acc a = 0, b = 0, d = 0;
#pragma omp simd reduction(+ : a, b, d)
          for (int64_t i = 0; i < steps; ++i) {
            const Acc centered = row[i] - mean_c, y = centered * scale_c + beta_c;
            const Acc passed = rectified<leaky>(y, gr[i], s);
            a += gr[i] * rectified<leaky>(y, y, s);
            b += passed;
            d += passed * centered;
          }
          projected[c] = a, gated[c] = b, deviations[c] = d;
        }
      } else {
        int64_t p = 0;
        for (; p + UNROLL <= count; p += UNROLL) {
          const Acc* rows[UNROLL];
          for (int64_t k = 0; k < UNROLL; ++k) rows[k] = widened(z.at(n, 0, first + p + k), size, buffer + k * size);
          const Acc *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
          const Acc g0 = gr[p], g1 = gr[p + 1], g2 = gr[p + 2], g3 = gr[p + 3];
#pragma omp simd
          for (int64_t c = 0; c < size; ++c) {
            const Acc m = mean[c], k = scale[c], b = beta[c];
            const Acc d0 = r0[c] - m, d1 = r1[c] - m, d2 = r2[c] - m, d3 = r3[c] - m;
            const Acc y0 = d0 * k + b, y1 = d1 * k + b, y2 = d2 * k + b, y3 = d3 * k + b;
            const Acc h0 = rectified<leaky>(y0, g0, s), h1 = rectified<leaky>(y1, g1, s);
            const Acc h2 = rectified<leaky>(y2, g2, s), h3 = rectified<leaky>(y3, g3, s);
            projected[c] += (g0 * rectified<leaky>(y0, y0, s) + g1 * rectified<leaky>(y1, y1, s)) +
                            (g2 * rectified<leaky>(y2, y2, s) + g3 * rectified<leaky>(y3, y3, s));
            gated[c] += (h0 + h1) + (h2 + h3);
            deviations[c] += (h0 * d0 + h1 * d1) + (h2 * d2 + h3 * d3);
          }
        }
        for (; p < count; ++p) {
          const Acc* row = widened(z.at(n, 0, first + p), size, buffer);
          const Acc gp = gr[p];
#pragma omp simd
          for (int64_t c = 0; c < size; ++c) {
            const Acc centered = row[c] - mean[c], y = centered * scale[c] + beta[c];
            const Acc passed = rectified<leaky>(y, gp, s);
            projected[c] += gp * rectified<leaky>(y, y, s);
            gated[c] += passed;
            deviations[c] += passed * centered;
          }
        }
      }
    });
  });
  std::vector<Sums> sums(channels);
  for (int64_t unit = 0; unit < units; ++unit) {
    const Acc* part = &parts[3 * unit * channels];
    for (int64_t c = 0; c < channels; ++c) {
      sums[c].projected += part[c];
      sums[c].rectified += part[channels + c];
      sums[c].deviations += part[2 * channels + c];
    }
  }
  return sums;
}

// dz = of_grad g' + constant + of_deviation (z - mean); the last two, which come from the statistics, only if `batch`.
template <class Acc>
struct Coefficients {
  std::vector<Acc> of_grad, constant, of_deviation;
};

template <class T, bool leaky, bool batch, class Acc = acc_t<T>>
void differentiate(const Hidden<T>& hidden, const Tensor& grad, const Norm<Acc>& norm, Acc slope,
                   const Coefficients<Acc>& k, const Tensor& grad_hidden) {
  const Map<const T> z = hidden.map;
  const auto g = as_map<const T>(grad, "grad");
  const auto dz = as_map<T>(grad_hidden, "grad_hidden");
  back_with_huge_pages(grad_hidden);
  if (hidden.planar) {
    hidden.for_each_row([&](int64_t, int64_t n, int64_t c, int64_t first, int64_t count) {
      Acc buffers[std::is_same_v<T, Acc> ? 1 : 3 * ROW];
      vectorized([&] {
        const int64_t steps = count;
        const Acc s = slope, mean = norm.mean[c], scale = norm.scale[c], beta = norm.beta[c];
        const Acc of_grad = k.of_grad[c], constant = k.constant[c], of_deviation = k.of_deviation[c];
        const Acc* row = widened(z.at(n, c, first), steps, buffers);
        const Acc* gr = widened(g.at(n, 0, first), steps, buffers + steps);
        T* out = dz.at(n, c, first);
        Acc* __restrict values = computed_in(out, buffers + 2 * steps);
        for (int64_t i = 0; i < steps; ++i) {
          const Acc centered = row[i] - mean, passed = rectified<leaky>(centered * scale + beta, gr[i], s);
          values[i] = batch ? of_grad * passed + (constant + of_deviation * centered) : of_grad * passed;
        }
        store(values, steps, out);
      });
    });
  } else {
    hidden.for_each_tile([&](int64_t, int64_t n, int64_t first, int64_t count) {
      std::vector<Acc> buffers(2 * hidden.channels + count);
      vectorized([&] {
        const int64_t steps = hidden.channels;
        const Acc *mean = norm.mean, *scale = norm.scale.data(), *beta = norm.beta, s = slope;
        const Acc *of_grad = k.of_grad.data(), *constant = k.constant.data(), *of_deviation = k.of_deviation.data();
        Acc* buffer = buffers.data();
        const Acc* gr = widened(g.at(n, 0, first), count, buffer + 2 * steps);
        for (int64_t p = 0; p < count; ++p) {
          const Acc* row = widened(z.at(n, 0, first + p), steps, buffer);
          T* out = dz.at(n, 0, first + p);
          Acc* __restrict values = computed_in(out, buffer + steps);
          const Acc gp = gr[p];
          for (int64_t c = 0; c < steps; ++c) {
            const Acc centered = row[c] - mean[c], passed = rectified<leaky>(centered * scale[c] + beta[c], gp, s);
            values[c] = batch ? of_grad[c] * passed + (constant[c] + of_deviation[c] * centered) : of_grad[c] * passed;
          }
          store(values, steps, out);
        }
      });
    });
  }
}

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& hidden_map, const Tensor& weight, const Tensor& bias,
             const std::optional<Tensor>& running_mean, const std::optional<Tensor>& running_var,
             const Tensor& project_weight, double eps, double slope, bool abs_weight, Tensor& logits, Tensor& mean,
             Tensor& variance) {
  const Hidden<T> hidden(hidden_map);
  if (running_mean) {
    std::copy_n(data_of<Acc>(running_mean), hidden.channels, data_of<Acc>(mean));
    std::copy_n(data_of<Acc>(running_var), hidden.channels, data_of<Acc>(variance));
  } else {
    statistics(hidden, data_of<Acc>(mean), data_of<Acc>(variance));
  }
  const Norm<Acc> norm(hidden.channels, data_of<Acc>(weight), data_of<Acc>(bias), data_of<Acc>(mean),
                       data_of<Acc>(variance), eps, abs_weight);
  const auto run = slope == 0 ? project<T, false> : project<T, true>;
  run(hidden, norm, data_of<Acc>(project_weight), static_cast<Acc>(slope), logits);
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& hidden_map, const Tensor& weight, const Tensor& bias,
              const Tensor& project_weight, const Tensor& mean, const Tensor& variance, bool batch_statistics,
              double eps, double slope, bool abs_weight, const std::optional<Tensor>& grad_hidden,
              const std::optional<Tensor>& grad_weight, const std::optional<Tensor>& grad_bias,
              const std::optional<Tensor>& grad_project) {
  const Hidden<T> hidden(hidden_map);
  const Acc *gamma = data_of<Acc>(weight), *w = data_of<Acc>(project_weight);
  const Norm<Acc> norm(hidden.channels, gamma, data_of<Acc>(bias), data_of<Acc>(mean), data_of<Acc>(variance), eps,
                       abs_weight);
  const bool leaky = slope != 0;
  std::vector<Sums> sums(hidden.channels);
  if (grad_weight || grad_bias || grad_project || batch_statistics) {
    const auto run = leaky ? sums_over_pixels<T, true> : sums_over_pixels<T, false>;
    sums = run(hidden, grad, norm, static_cast<Acc>(slope));
  }
  Acc *dw = data_of<Acc>(grad_weight), *db = data_of<Acc>(grad_bias), *dp = data_of<Acc>(grad_project);
  Coefficients<Acc> k{std::vector<Acc>(hidden.channels), std::vector<Acc>(hidden.channels),
                      std::vector<Acc>(hidden.channels)};
  for (int64_t c = 0; c < hidden.channels; ++c) {
    const double deviation = norm.deviation[c], scale = norm.scale[c];
    const double of_beta = w[c] * sums[c].rectified, of_gamma = w[c] * sums[c].deviations * deviation;
    const double sign = !abs_weight ? 1 : gamma[c] > 0 ? 1 : gamma[c] < 0 ? -1 : 0;
    if (dw) dw[c] = static_cast<Acc>(of_gamma * sign);
    if (db) db[c] = static_cast<Acc>(of_beta);
    if (dp) dp[c] = static_cast<Acc>(sums[c].projected);
    k.of_grad[c] = static_cast<Acc>(scale * w[c]);
    k.constant[c] = static_cast<Acc>(-scale * of_beta / hidden.count());
    k.of_deviation[c] = static_cast<Acc>(-scale * deviation * of_gamma / hidden.count());
  }
  if (grad_hidden) {
    const auto run = leaky ? (batch_statistics ? differentiate<T, true, true> : differentiate<T, true, false>)
                           : (batch_statistics ? differentiate<T, false, true> : differentiate<T, false, false>);
    run(hidden, grad, norm, static_cast<Acc>(slope), k, *grad_hidden);
  }
}

void bn_relu_project_forward(Tensor hidden, Tensor weight, Tensor bias, std::optional<Tensor> running_mean,
                             std::optional<Tensor> running_var, Tensor project_weight, double eps,
                             double activation_slope, bool abs_weight, Tensor logits, Tensor mean, Tensor variance) {
  STD_TORCH_CHECK(running_mean.has_value() == running_var.has_value(),
                  "bn_relu_project: running_mean and running_var must be given together");
  dispatch(hidden.scalar_type(), "bn_relu_project", [&](auto t) {
    forward<decltype(t)>(hidden, weight, bias, running_mean, running_var, project_weight, eps, activation_slope,
                         abs_weight, logits, mean, variance);
  });
}

void bn_relu_project_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor project_weight,
                              Tensor mean, Tensor variance, bool batch_statistics, double eps, double activation_slope,
                              bool abs_weight, std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients of = spread("bn_relu_project", grads, needed, 4);
  dispatch(hidden.scalar_type(), "bn_relu_project", [&](auto t) {
    backward<decltype(t)>(grad, hidden, weight, bias, project_weight, mean, variance, batch_statistics, eps,
                          activation_slope, abs_weight, of[0], of[1], of[2], of[3]);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("bn_relu_project_forward", TORCH_BOX(&afa::bn_relu_project_forward));
  m.impl("bn_relu_project_backward", TORCH_BOX(&afa::bn_relu_project_backward));
}
