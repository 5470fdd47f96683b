// scale_space_cross_entropy on the CPU: -u_t log_softmax(rendered)_t of every pixel. The forward keeps log(sum exp) of
// a pixel; the backward renders once more, and u_t (softmax - onehot) exists a row at a time.
#include "cross_entropy.h"
#include "render_backward.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_cross_entropy"};
template <class T, class Acc = acc_t<T>>
void forward(const std::vector<Tensor>& tensors, const Tensor& logits, const Tensor& target,
             const std::optional<Tensor>& weight, const std::optional<Tensor>& smoothing, int64_t ignore_index,
             const std::string& phi, bool opaque_last, bool resize_opacities, const Tensor& losses, const Tensor& lse) {
  const int64_t height = losses.size(1), width = losses.size(2);
  const Maps<Acc> maps(check, logits, phi, opaque_last, resize_opacities, height, width);
  const Predictions<T> predictions(check, tensors, maps, height, width);
  const int64_t channels = predictions.channels, pixels = maps.batch * height * width;
  const Classes<Acc> classes(check, target, weight, smoothing, ignore_index, channels, pixels);
  const Acc* smooth_row = classes.smoothing;
  Acc *loss_of = check.flat<Acc>("losses", losses, pixels), *lse_of = check.flat<Acc>("lse", lse, pixels);

  // What is kept of some pixels, whose channels are seen one after the other.
  struct Seen {
    Acc best[COLUMNS], total[COLUMNS], score[COLUMNS], smooth[COLUMNS];
    int32_t target[COLUMNS];
  };
  const auto emit = [&](Seen& seen, int64_t n, int64_t y, int64_t first, int64_t count, int64_t c,
                        const Rendered<Acc>& rendered) {
    const Acc* scores = rendered.values();
    Acc *best = seen.best, *total = seen.total, *score = seen.score, *smooth = seen.smooth;
    int32_t* t = seen.target;
    const int64_t at = (n * height + y) * width + first;
    if (c == 0) {
      classes.read(at, count, t);
      for (int64_t i = 0; i < count; ++i) best[i] = score[i] = scores[i], total[i] = 1;
    } else {
      const auto channel = static_cast<int32_t>(c);
      for (int64_t i = 0; i < count; ++i) {
        add_exp(scores[i], best[i], total[i]);
        score[i] = t[i] == channel ? scores[i] : score[i];
      }
    }
    for (int64_t i = 0; i < count && smooth_row; ++i)
      smooth[i] = (c == 0 ? Acc(0) : smooth[i]) + smooth_row[c] * scores[i];
    if (c + 1 < channels) return;
    for (int64_t i = 0; i < count; ++i) {
      const bool infinite = best[i] == std::numeric_limits<Acc>::infinity();  // which has no softmax
      total[i] = infinite ? std::numeric_limits<Acc>::quiet_NaN() : best[i] + log(total[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      lse_of[at + i] = total[i];
      loss_of[at + i] = classes.weighted(t[i], total[i] - score[i]);
      if (smooth_row && t[i] >= 0) loss_of[at + i] += classes.smoothed * total[i] - smooth[i];
    }
  };
  render<Seen, false>(predictions, maps, height, width, emit);
}

// dL/d rendered = dL/d loss (u_t (softmax - onehot) + the sum of the smoothing times softmax - the smoothing).
template <class Acc>
struct CrossEntropy {
  static constexpr bool of_scores = true;
  const Classes<Acc>& classes;
  int64_t height, width;
  const Acc* lse;
  std::unique_ptr<Acc[]> upstream, factor;  // dL/d loss with smoothing, and times what multiplies the softmax
  std::unique_ptr<int32_t[]> target;

  CrossEntropy(const Tensor& grad, const Classes<Acc>& of, const Tensor& log_sum_exp)
      : classes(of),
        height(grad.size(1)),
        width(grad.size(2)),
        lse(check.flat<const Acc>("lse", log_sum_exp, grad.numel())),
        upstream(uninitialized<Acc>(of.smoothing ? grad.numel() : 0)),
        factor(uninitialized<Acc>(grad.numel())),
        target(uninitialized<int32_t>(grad.numel())) {
    const auto* g = check.flat<const Acc>("grad", grad, grad.numel());
    torch::stable::parallel_for(0, grad.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
      classes.read(begin, end - begin, target.get() + begin);
      for (int64_t i = begin; i < end; ++i) factor[i] = classes.weighted(target[i], g[i]);
      for (int64_t i = begin; i < end && classes.smoothing; ++i) upstream[i] = target[i] == IGNORED ? Acc(0) : g[i];
    });
  }

  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, const Acc* scores,
           Acc* __restrict out) const {
    const int64_t at = (n * height + y) * width + first;
    const Acc *f = factor.get() + at, *l = lse + at, *g = upstream.get() + at;
    const int32_t* t = target.get() + at;
    const auto channel = static_cast<int32_t>(c);
    if (!classes.smoothing) {
      for (int64_t i = 0; i < count; ++i) out[i] = f[i] * (exp(scores[i] - l[i]) - (t[i] == channel ? Acc(1) : Acc(0)));
      return;
    }
    const Acc s = classes.smoothing[c], all = classes.smoothed;
    for (int64_t i = 0; i < count; ++i) {
      const Acc softmax = exp(scores[i] - l[i]);
      out[i] = f[i] * (softmax - (t[i] == channel ? Acc(1) : Acc(0))) + g[i] * (all * softmax - s);
    }
  }
};

void scale_space_cross_entropy_forward(std::vector<Tensor> predictions, Tensor logits, Tensor target,
                                       std::optional<Tensor> weight, std::optional<Tensor> smoothing,
                                       int64_t ignore_index, std::string phi, bool opaque_last, bool resize_opacities,
                                       Tensor losses, Tensor lse) {
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    forward<decltype(t)>(predictions, logits, target, weight, smoothing, ignore_index, phi, opaque_last,
                         resize_opacities, losses, lse);
  });
}

void scale_space_cross_entropy_backward(Tensor grad, std::vector<Tensor> predictions, Tensor logits, Tensor target,
                                        std::optional<Tensor> weight, std::optional<Tensor> smoothing, Tensor lse,
                                        int64_t ignore_index, std::string phi, bool opaque_last, bool resize_opacities,
                                        std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, predictions.size() + 1);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = grad.size(1), width = grad.size(2);
    const Maps<Acc> maps(check, logits, phi, opaque_last, resize_opacities, height, width);
    const Predictions<T> scales(check, predictions, maps, height, width);
    check.contiguous("grad", grad, maps.batch * height * width);
    const Classes<Acc> classes(check, target, weight, smoothing, ignore_index, scales.channels, grad.numel());
    const CrossEntropy<Acc> gradient(grad, classes, lse);
    render_backward(check, gradient, scales, maps, logits, phi, height, width, all);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_cross_entropy_forward", TORCH_BOX(&afa::scale_space_cross_entropy_forward));
  m.impl("scale_space_cross_entropy_backward", TORCH_BOX(&afa::scale_space_cross_entropy_backward));
}
