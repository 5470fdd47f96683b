// What the launchers of every operation on a rendering share. What they all launch is in render.cu, once.
#pragma once

#include "nchw.h"
#include "scores.cuh"
#include "weights.h"

namespace afa {

constexpr int64_t MOST_PIXELS = INT32_MAX;  // of one image

template <class Acc>
Resize<Acc> resize_of(const Checker& check, int64_t height, int64_t width, int64_t out_height, int64_t out_width) {
  STD_TORCH_CHECK(height * width <= MOST_PIXELS && out_height * out_width <= MOST_PIXELS, check.op,
                  ": an image must have at most ", MOST_PIXELS, " pixels");
  const auto axis = [](int64_t in, int64_t out) {
    const auto i = static_cast<Acc>(in), o = static_cast<Acc>(out);
    return Axis<Acc>{static_cast<int32_t>(in), static_cast<int32_t>(out), i / o, o / i};
  };
  return {axis(height, out_height), axis(width, out_width), height == out_height && width == out_width};
}

// So many channels of a pixel in a thread.
inline Canvas canvas_of(int64_t channels, int64_t height, int64_t width, int64_t of_part) {
  const auto number = [](int64_t value) { return static_cast<int32_t>(value); };
  const int64_t parts = std::max<int64_t>(1, ceil_div(channels, std::max<int64_t>(1, of_part)));
  return {number(height), number(width), number(channels), number(of_part), number(parts), 0};
}
inline Canvas canvas_of(int64_t channels, int64_t height, int64_t width) {
  return canvas_of(channels, height, width, channels);
}
inline int64_t blocks_of(const Canvas& canvas, int64_t batch) {
  return batch * canvas.parts * ceil_div(static_cast<int64_t>(canvas.height) * canvas.width, THREADS);
}

// A map that is read at the output's resolution.
template <class T>
class Input {
  InNchw<const T> in_nchw_;

 public:
  Resized<T> resized;

  Input(const Checker& check, const Launcher& launch, const char* name, const Tensor& t, const Shape& shape,
        int64_t height, int64_t width)
      : in_nchw_(check, name, t, shape) {
    in_nchw_.copy_in(launch);
    const auto& map = in_nchw_.map;
    resized = {map.data, map.sn, map.sc, resize_of<acc_t<T>>(check, shape[2], shape[3], height, width)};
  }
};

// Predictions (N, C, h_k, w_k).
template <class T>
struct Inputs {
  int64_t batch, channels;
  std::vector<Input<T>> scales;

  Inputs(const Checker& check, const Launcher& launch, const std::vector<Tensor>& tensors, int64_t batch,
         int64_t height, int64_t width)
      : batch(batch), channels(check.first("predictions", tensors).size(1)) {
    for (const Tensor& t : tensors) {
      check.pixels("predictions", t);
      scales.emplace_back(check, launch, "predictions", t, Shape{batch, channels, t.size(2), t.size(3)}, height, width);
    }
  }

  template <int most>
  Predictions<T, most> of() const {
    Predictions<T, most> result{};
    std::transform(scales.begin(), scales.end(), result.scales, [](const auto& scale) { return scale.resized; });
    return result;
  }
};

// The planes that predictions are weighed by, in memory of their own.
template <class Acc>
struct Planes {
  std::vector<Tensor> memory;
  std::vector<Resized<Acc>> planes;
  int64_t batch, scales;
  bool opacities, opaque_last, premultiplied = false, alike = false;

  // Weights or opacities of logits (N, K, h, w), made at their resolution.
  Planes(const Checker& check, const Launcher& launch, const Tensor& logits, const std::string& phi, bool last,
         bool resize_opacities, int64_t height, int64_t width);

  // Opacities (N, 1, h_k, w_k) at a resolution of their own, of all scales but the last, which is opaque.
  Planes(const Checker& check, const Launcher& launch, const std::vector<Tensor>& attentions, const Tensor& like,
         bool multiplied, int64_t height, int64_t width);

  // The gradient of the logits, of what reaches the planes at the output's resolution, (N, K, height, width).
  void logits_backward(const Checker& check, const Launcher& launch, const Tensor& logits, const std::string& phi,
                       const Tensor& map_grads, const Tensor& grad_logits) const;

  template <int most>
  Maps<Acc, most> of() const {
    Maps<Acc, most> result{};
    std::copy(planes.begin(), planes.end(), result.planes);
    result.scales = static_cast<int32_t>(scales);
    result.opacities = opacities;
    result.opaque_last = opaque_last;
    result.premultiplied = premultiplied;
    result.alike = alike;
    return result;
  }
};

template <class T>
void check_scales(const Checker& check, const Inputs<T>& inputs, const Planes<acc_t<T>>& planes) {
  check.count("predictions", inputs.scales.size(), planes.scales);
  STD_TORCH_CHECK(planes.scales <= MOST_SCALES, check.op, ": at most ", MOST_SCALES, " scales, got ", planes.scales);
}

// A rendering and its gradients.
template <class T>
struct Renderer {
  const Checker& check;
  const Launcher& launch;
  const Inputs<T>& inputs;
  const Planes<acc_t<T>>& planes;

  void forward(const Tensor& out) const;

  // Fills the gradients of the predictions that are needed, and returns what reaches the planes at the output's
  // resolution, (N, K, height, width), if that is wanted.
  std::optional<Tensor> backward(const Tensor& grad, const std::vector<Tensor>& predictions, const Gradients& grads,
                                 bool of_planes) const;
};

// The gradient of a map (N, C, rows, columns) that is read resized to `width` columns.
template <class T>
struct Gather {
  using Acc = acc_t<T>;
  const Launcher& launch;
  const Tensor& like;
  int64_t batch, channels, width;
  Resize<Acc> resize;
  PixelWeights<Acc> weights;
  Map<T> dx;

  // Rows [begin, end), of dL/d rendered from row `origin` on.
  template <class G>
  void rows(int64_t begin, int64_t end, const Map<const G>& grad, int64_t origin) const;

  // All of it, of what make(canvas, map) stores of dL/d rendered, for a band of rows at a time.
  template <class F>
  void bands(int64_t height, const F& make) const {
    constexpr int64_t BANDS = 8, ROWS = 64;  // so many bands at most, of no fewer rows
    const int64_t in = resize.rows.in, of_band = std::max(ceil_div(in, BANDS), ceil_div(ROWS * in, height));
    for (int64_t begin = 0; begin < in; begin += of_band) {
      const int64_t end = std::min(begin + of_band, in);
      const int64_t top = resize.identity ? begin : resize.rows.first(begin);
      const int64_t bottom = resize.identity ? end : resize.rows.last(end - 1) + 1;
      const int64_t pixels = (bottom - top) * width;
      Canvas canvas = canvas_of(channels, bottom - top, width);
      canvas.top = static_cast<int32_t>(top);
      const Tensor memory = scratch<Acc>(like, batch * channels * pixels);
      const Map<Acc> band{data_of<Acc>(memory), channels * pixels, pixels, 1};
      make(canvas, band);
      rows(begin, end, Map<const Acc>{band.data, band.sn, band.sc, 1}, top);
    }
  }
};

// dL/d rendered: an operation's argument, or what it computes from the scores, (N, C, height, width).
template <class T>
struct Backward {
  using Acc = acc_t<T>;
  const Checker& check;
  const Launcher& launch;
  const Inputs<T>& inputs;
  const Planes<Acc>& planes;
  int64_t height, width;
  std::optional<Tensor> weights, map_grads;  // (N, K, height, width)

  Backward(const Checker& check, const Launcher& launch, const Inputs<T>& inputs, const Planes<Acc>& planes,
           int64_t height, int64_t width)
      : check(check), launch(launch), inputs(inputs), planes(planes), height(height), width(width) {
    check_scales(check, inputs, planes);
  }

  // What predictions are weighed by, and what reaches the planes: those that are wanted.
  template <class Gradient>
  void maps(const Gradient& gradient, const Tensor& like, bool of_predictions, bool of_planes) {
    const int64_t size = inputs.batch * planes.scales * height * width;
    if (of_predictions) weights = scratch<Acc>(like, size);
    if (of_planes) map_grads = scratch<Acc>(like, size);
    const Canvas canvas = canvas_of(inputs.channels, height, width);
    dispatch_scales<T>(planes.scales, [&](auto most) {
      launch(render_backward_maps<T, most, Gradient>, blocks_of(canvas, inputs.batch), canvas,
             inputs.template of<most>(), planes.template of<most>(), gradient, data_of<Acc>(weights),
             data_of<Acc>(map_grads));
    });
  }

  InNchw<T> grad_of(const Tensor& prediction, const Tensor& grad) const {
    return {
        check, "grad of predictions", grad, {inputs.batch, inputs.channels, prediction.size(2), prediction.size(3)}};
  }
  Gather<T> gather(int64_t k, const Map<T>& dx) const {
    const PixelWeights<Acc> weight{data_of<Acc>(weights) + k * height * width, planes.scales * height * width};
    return {launch, *weights, inputs.batch, inputs.channels, width, inputs.scales[k].resized.resize, weight, dx};
  }
};

// Renderer's backward, of what `gradient` computes from the scores, which is stored for a band of rows at a time.
template <class T, class Gradient, class Acc = acc_t<T>>
std::optional<Tensor> render_backward_of_scores(const Checker& check, const Launcher& launch, const Gradient& gradient,
                                                const Tensor& like, int64_t height, int64_t width,
                                                const Inputs<T>& inputs, const Planes<Acc>& planes,
                                                const std::vector<Tensor>& predictions, const Gradients& grads,
                                                bool of_planes) {
  Backward<T> backward(check, launch, inputs, planes, height, width);
  const bool of_predictions = std::any_of(grads.begin(), grads.begin() + planes.scales, [](auto& t) { return !!t; });
  backward.maps(gradient, like, of_predictions, of_planes);
  for (int64_t k = 0; k < planes.scales; ++k) {
    if (!grads[k]) continue;
    const InNchw<T> dx = backward.grad_of(predictions[k], *grads[k]);
    backward.gather(k, dx.map).bands(height, [&](const Canvas& canvas, const Map<Acc>& band) {
      dispatch_scales<T>(planes.scales, [&](auto most) {
        using Scores = RenderedScores<T, most>;
        launch(gradient_rows<Scores, Gradient>, blocks_of(canvas, inputs.batch), canvas,
               Scores{inputs.template of<most>(), planes.template of<most>()}, gradient, band);
      });
    });
    dx.copy_out(launch);
  }
  return backward.map_grads;
}

}  // namespace afa
