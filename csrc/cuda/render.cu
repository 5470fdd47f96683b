// What the operations on a rendering launch alike: the kernels of render.cuh that do not depend on the operation.
#include "render.h"

namespace afa {
namespace {

// Blocks that share the pixels of a small output, until there are enough for a GPU.
Canvas shared_canvas(int64_t batch, int64_t channels, int64_t height, int64_t width) {
  constexpr int64_t ENOUGH = 512, FEWEST = 8;  // blocks, and channels of each
  const int64_t parts = ceil_div(ENOUGH, blocks_of(canvas_of(channels, height, width), batch));
  return canvas_of(channels, height, width, std::max(ceil_div(channels, parts), std::min(channels, FEWEST)));
}

}  // namespace

template <class Acc>
Planes<Acc>::Planes(const Checker& check, const Launcher& launch, const Tensor& logits, const std::string& phi,
                    bool last, bool resize_opacities, int64_t height, int64_t width)
    : batch(logits.size(0)), scales(logits.size(1)), opacities(resize_opacities), opaque_last(last), alike(true) {
  const Layout layout(logits);
  check.pixels("logits", logits);
  const Compositing c = compositing_of(check, layout, phi, last);
  const AnyMap y = any_map(check, "logits", logits, layout.shape());
  memory.push_back(scratch<Acc>(logits, batch * scales * layout.pixels));
  Acc* data = data_of<Acc>(memory[0]);
  dispatch_scales<Acc>(scales, [&](auto most) {
    launch(make_planes<Acc, most>, blocks_of_pixels(batch, layout.pixels), c, opacities, y, data);
  });
  const auto resize = resize_of<Acc>(check, layout.height, layout.width, height, width);
  for (int64_t k = 0; k < scales; ++k) planes.push_back({data + k * layout.pixels, scales * layout.pixels, 0, resize});
}

template <class Acc>
Planes<Acc>::Planes(const Checker& check, const Launcher& launch, const std::vector<Tensor>& attentions,
                    const Tensor& like, bool multiplied, int64_t height, int64_t width)
    : batch(like.size(0)),
      scales(attentions.size() + 1),
      opacities(true),
      opaque_last(true),
      premultiplied(multiplied) {
  for (const Tensor& t : attentions) {
    const int64_t pixels = t.size(2) * t.size(3);
    check.pixels("attentions", t);
    const AnyMap map = any_map(check, "attentions", t, {batch, 1, t.size(2), t.size(3)});
    memory.push_back(scratch<Acc>(like, batch * pixels));
    Acc* data = data_of<Acc>(memory.back());
    launch(copy_plane<Acc>, blocks_of_pixels(batch, pixels), pixels, map, data);
    planes.push_back({data, pixels, 0, resize_of<Acc>(check, t.size(2), t.size(3), height, width)});
  }
  planes.push_back(Resized<Acc>{});  // of the last, which is not read
}

template <class Acc>
void Planes<Acc>::logits_backward(const Checker& check, const Launcher& launch, const Tensor& logits,
                                  const std::string& phi, const Tensor& map_grads, const Tensor& grad_logits) const {
  const Layout layout(logits);
  const Compositing c = compositing_of(check, layout, phi, opaque_last);
  const AnyMap y = any_map(check, "logits", logits, layout.shape());
  const AnyMap dy = any_map(check, "grad of logits", grad_logits, layout.shape());
  dispatch_scales<Acc>(scales, [&](auto most) {
    launch(gather_logits<Acc, most>, blocks_of_pixels(layout.batch, layout.pixels), c, opacities, planes[0].resize,
           data_of<Acc>(map_grads), y, dy);
  });
}

template <class T>
void Renderer<T>::forward(const Tensor& out) const {
  check_scales(check, inputs, planes);
  const int64_t height = out.size(2), width = out.size(3);
  const Canvas canvas = shared_canvas(inputs.batch, inputs.channels, height, width);
  dispatch_result<T>(check, "out", out, [&](auto element) {
    using Out = decltype(element);
    const InNchw<Out> to(check, "out", out, {inputs.batch, inputs.channels, height, width});
    dispatch_scales<T>(planes.scales, [&](auto most) {
      launch(render_forward<T, most, Out>, blocks_of(canvas, inputs.batch), canvas, inputs.template of<most>(),
             planes.template of<most>(), to.map);
    });
    to.copy_out(launch);
  });
}

template <class T>
template <class G>
void Gather<T>::rows(int64_t begin, int64_t end, const Map<const G>& grad, int64_t origin) const {
  const int64_t most = std::max<int64_t>(1, MOST_PIXELS / width);
  if (end - begin > most) {  // what is between the passes has no more pixels than an image
    rows(begin, begin + most, grad, origin);
    return rows(begin + most, end, grad, origin);
  }
  const Map<T> into{dx.data + begin * resize.columns.in, dx.sn, dx.sc, 1};
  Canvas canvas = canvas_of(channels, end - begin, width, GATHERED);
  canvas.top = static_cast<int32_t>(begin);
  const auto down = [&](const auto& to) {
    using Out = std::remove_reference_t<decltype(*to.data)>;
    launch(gather_down<G, Out>, blocks_of(canvas, batch), canvas, resize, grad, static_cast<int32_t>(origin * width),
           weights, to);
  };
  if (resize.columns.in == width) return down(into);
  const int64_t pixels = (end - begin) * width;
  const Tensor memory = scratch<Acc>(like, batch * channels * pixels);
  const Map<Acc> sums{data_of<Acc>(memory), channels * pixels, pixels, 1};
  down(sums);
  canvas.width = resize.columns.in;
  launch(gather_along<T>, blocks_of(canvas, batch), canvas, resize.columns,
         Map<const Acc>{sums.data, sums.sn, sums.sc, 1}, into);
}

template <class T>
std::optional<Tensor> Renderer<T>::backward(const Tensor& grad, const std::vector<Tensor>& predictions,
                                            const Gradients& grads, bool of_planes) const {
  Backward<T> backward(check, launch, inputs, planes, grad.size(2), grad.size(3));
  const bool of_predictions = std::any_of(grads.begin(), grads.begin() + planes.scales, [](auto& t) { return !!t; });
  dispatch_result<T>(check, "grad", grad, [&](auto element) {
    using G = decltype(element);
    const InNchw<const G> given(check, "grad", grad, {inputs.batch, inputs.channels, backward.height, backward.width});
    given.copy_in(launch);
    backward.maps(Given<G>{given.map}, grad, of_predictions, of_planes);
    for (int64_t k = 0; k < planes.scales; ++k) {
      if (!grads[k]) continue;
      const InNchw<T> dx = backward.grad_of(predictions[k], *grads[k]);
      backward.gather(k, dx.map).rows(0, predictions[k].size(2), given.map, 0);
      dx.copy_out(launch);
    }
  });
  return backward.map_grads;
}

template struct Planes<float>;
template struct Planes<double>;

template struct Renderer<float>;
template void Gather<float>::rows(int64_t, int64_t, const Map<const float>&, int64_t) const;
#ifndef AFA_FLOAT32_ONLY
template struct Renderer<double>;
template void Gather<double>::rows(int64_t, int64_t, const Map<const double>&, int64_t) const;
template struct Renderer<Half>;
template void Gather<Half>::rows(int64_t, int64_t, const Map<const float>&, int64_t) const;
template struct Renderer<BFloat16>;
template void Gather<BFloat16>::rows(int64_t, int64_t, const Map<const float>&, int64_t) const;
#endif

}  // namespace afa
