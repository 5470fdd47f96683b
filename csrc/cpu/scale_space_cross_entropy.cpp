// scale_space_cross_entropy on the CPU: -u_t log_softmax(rendered)_t of every pixel. The forward keeps log(sum exp) of
// a pixel; the backward renders once more, and u_t (softmax - onehot) exists a row at a time.
#include <limits>

#include "render_backward.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_cross_entropy"};
constexpr int32_t IGNORED = -1, WRONG = -2;  // targets that are no class

// The class of each of `count` pixels from `at`, or why it has none.
void read_target(const Tensor& target, int64_t ignore_index, int64_t channels, int64_t at, int64_t count,
                 int32_t* classes) {
  const auto read = [&](const auto* data) {
    for (int64_t i = 0; i < count; ++i) {
      const auto t = static_cast<int64_t>(data[at + i]);
      classes[i] = t == ignore_index ? IGNORED : t >= 0 && t < channels ? static_cast<int32_t>(t) : WRONG;
    }
  };
  switch (target.scalar_type()) {
    case ScalarType::Byte: return read(static_cast<const uint8_t*>(target.data_ptr()));
    case ScalarType::Int: return read(static_cast<const int32_t*>(target.data_ptr()));
    case ScalarType::Long: return read(static_cast<const int64_t*>(target.data_ptr()));
    default:
      STD_TORCH_CHECK(false, check.op, ": target has an unsupported dtype ", static_cast<int>(target.scalar_type()));
  }
}

// `value` times the weight of class t, NaN if that is no class; 0 where the pixel is ignored, whatever the value.
template <class Acc>
Acc weighted(const Acc* weight, int32_t t, Acc value) {
  if (t >= 0) return weight ? weight[t] * value : value;
  return t == IGNORED ? Acc(0) : std::numeric_limits<Acc>::quiet_NaN();
}

template <class T, class Acc = acc_t<T>>
void forward(const std::vector<Tensor>& tensors, const Tensor& logits, const Tensor& target,
             const std::optional<Tensor>& weight, int64_t ignore_index, const std::string& phi, bool opaque_last,
             bool resize_opacities, const Tensor& losses, const Tensor& lse) {
  const int64_t height = losses.size(1), width = losses.size(2);
  const Maps<Acc> maps(check, logits, phi, opaque_last, resize_opacities, height, width);
  const Predictions<T> predictions(check, tensors, maps, height, width);
  const bool channels_last = predictions.channels_last;
  const int64_t channels = predictions.channels, pixels = maps.batch * height * width;
  const Acc* class_weight = check.flat<const Acc>("weight", weight, channels);
  Acc *loss_of = check.flat<Acc>("losses", losses, pixels), *lse_of = check.flat<Acc>("lse", lse, pixels);
  check.contiguous("target", target, pixels);

  // A span of pixels, whose channels one thread sees one after the other.
  struct Seen {
    Acc best[COLUMNS], total[COLUMNS], score[COLUMNS];
    int32_t target[COLUMNS];
  };
  render(predictions, maps, height, width,
         [&](int64_t n, int64_t y, int64_t first, int64_t count, int64_t r, const Acc* scores) {
           thread_local Seen seen;
           Acc *best = seen.best, *total = seen.total, *score = seen.score;
           int32_t* t = seen.target;
           const int64_t at = (n * height + y) * width + first;
           if (r == 0) read_target(target, ignore_index, channels, at, count, t);
           if (channels_last) {
             best[r] = scores[0], total[r] = 0;
             for (int64_t c = 1; c < channels; ++c) best[r] = scores[c] > best[r] ? scores[c] : best[r];
             for (int64_t c = 0; c < channels; ++c) total[r] += exp(scores[c] - best[r]);
             score[r] = scores[std::max(t[r], 0)];
           } else if (r == 0) {
             for (int64_t i = 0; i < count; ++i) best[i] = score[i] = scores[i], total[i] = 1;
           } else {
             const auto channel = static_cast<int32_t>(r);
             for (int64_t i = 0; i < count; ++i) {
               add_exp(scores[i], best[i], total[i]);
               score[i] = t[i] == channel ? scores[i] : score[i];
             }
           }
           if (r + 1 < (channels_last ? count : channels)) return;
           for (int64_t i = 0; i < count; ++i) {
             // an infinite score has no softmax
             const bool infinite = best[i] == std::numeric_limits<Acc>::infinity();
             const Acc value = infinite ? std::numeric_limits<Acc>::quiet_NaN() : best[i] + std::log(total[i]);
             lse_of[at + i] = value;
             loss_of[at + i] = weighted(class_weight, t[i], value - score[i]);
           }
         });
}

// dL/d rendered = dL/d loss u_t (softmax - onehot).
template <class Acc>
struct CrossEntropy {
  static constexpr bool of_scores = true;
  int64_t height, width;
  const Acc* lse;
  std::unique_ptr<Acc[]> factor;  // dL/d loss u_t
  std::unique_ptr<int32_t[]> target;

  CrossEntropy(const Tensor& grad, const Tensor& targets, const std::optional<Tensor>& weight, int64_t ignore_index,
               int64_t channels, const Tensor& log_sum_exp)
      : height(grad.size(1)),
        width(grad.size(2)),
        lse(check.flat<const Acc>("lse", log_sum_exp, grad.numel())),
        factor(uninitialized<Acc>(grad.numel())),
        target(uninitialized<int32_t>(grad.numel())) {
    const auto* g = check.flat<const Acc>("grad", grad, grad.numel());
    const Acc* class_weight = check.flat<const Acc>("weight", weight, channels);
    check.contiguous("target", targets, grad.numel());
    torch::stable::parallel_for(0, grad.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
      read_target(targets, ignore_index, channels, begin, end - begin, target.get() + begin);
      for (int64_t i = begin; i < end; ++i) factor[i] = weighted(class_weight, target[i], g[i]);
    });
  }

  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, const Acc* scores,
           Acc* __restrict out) const {
    const int64_t at = (n * height + y) * width + first;
    const Acc *f = factor.get() + at, *l = lse + at;
    const int32_t* t = target.get() + at;
    const auto channel = static_cast<int32_t>(c);
    for (int64_t i = 0; i < count; ++i) out[i] = f[i] * (exp(scores[i] - l[i]) - (t[i] == channel ? Acc(1) : Acc(0)));
  }
  void pixel(int64_t n, int64_t y, int64_t x, int64_t channels, const Acc* scores, Acc* __restrict out) const {
    const int64_t at = (n * height + y) * width + x;
    const Acc f = factor[at], l = lse[at];
    const int64_t t = target[at];
    for (int64_t c = 0; c < channels; ++c) out[c] = f * exp(scores[c] - l);
    if (t >= 0) out[t] = f * (exp(scores[t] - l) - 1);
  }
};

void scale_space_cross_entropy_forward(std::vector<Tensor> predictions, Tensor logits, Tensor target,
                                       std::optional<Tensor> weight, int64_t ignore_index, std::string phi,
                                       bool opaque_last, bool resize_opacities, Tensor losses, Tensor lse) {
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    forward<decltype(t)>(predictions, logits, target, weight, ignore_index, phi, opaque_last, resize_opacities, losses,
                         lse);
  });
}

void scale_space_cross_entropy_backward(Tensor grad, std::vector<Tensor> predictions, Tensor logits, Tensor target,
                                        std::optional<Tensor> weight, Tensor lse, int64_t ignore_index, std::string phi,
                                        bool opaque_last, bool resize_opacities, std::vector<bool> needed,
                                        std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, predictions.size() + 1);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = grad.size(1), width = grad.size(2);
    const Maps<Acc> maps(check, logits, phi, opaque_last, resize_opacities, height, width);
    const Predictions<T> scales(check, predictions, maps, height, width);
    check.contiguous("grad", grad, maps.batch * height * width);
    const CrossEntropy<Acc> gradient(grad, target, weight, ignore_index, scales.channels, lse);
    render_backward(check, gradient, scales, maps, logits, phi, height, width, all);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_cross_entropy_forward", TORCH_BOX(&afa::scale_space_cross_entropy_forward));
  m.impl("scale_space_cross_entropy_backward", TORCH_BOX(&afa::scale_space_cross_entropy_backward));
}
