// The schema of every native op. Each allocates nothing that outlives it: outputs are given by the caller.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(afa_native, m) {
  m.def(
      "attentive_fusion_forward(Tensor shallow, Tensor deep, Tensor spatial_logits, Tensor channel_logits, "
      "Tensor(a!) out) -> ()");
  m.def(
      "attentive_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor spatial_logits, "
      "Tensor channel_logits, bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def(
      "progressive_fusion_forward(Tensor[] features, Tensor[] spatial_logits, Tensor[] channel_logits, "
      "Tensor(a!) out) -> ()");
  m.def(
      "progressive_fusion_backward(Tensor grad, Tensor[] features, Tensor[] spatial_logits, Tensor[] channel_logits, "
      "bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def(
      "resized_fusion_forward(Tensor[] features, Tensor[] spatial_logits, Tensor[] channel_logits, "
      "Tensor(a!) out) -> ()");
  m.def(
      "resized_fusion_backward(Tensor grad, Tensor[] features, Tensor[] spatial_logits, Tensor[] channel_logits, "
      "bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def("global_avg_max_pool_forward(Tensor x, Tensor(a!) avg, Tensor(b!) max, Tensor(c!) index) -> ()");
  m.def("global_avg_max_pool_backward(Tensor? grad_avg, Tensor? grad_max, Tensor index, Tensor(a!) grad_x) -> ()");
  m.def(
      "upsampled_fusion_forward(Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits, "
      "Tensor channel_logits, Tensor(a!) out) -> ()");
  m.def(
      "upsampled_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits, "
      "Tensor channel_logits, bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def("upsampled_pool_forward(Tensor deep, Tensor weight, Tensor(a!) avg, Tensor(b!) max, Tensor(c!) index) -> ()");
  m.def(
      "upsampled_pool_backward(Tensor? grad_avg, Tensor? grad_max, Tensor deep, Tensor weight, Tensor index, "
      "bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def(
      "bn_relu_project_forward(Tensor hidden, Tensor weight, Tensor bias, Tensor? running_mean, Tensor? running_var, "
      "Tensor project_weight, float eps, float activation_slope, bool abs_weight, Tensor(a!) logits, Tensor(b!) mean, "
      "Tensor(c!) variance) -> ()");
  m.def(
      "bn_relu_project_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor project_weight, "
      "Tensor mean, Tensor variance, bool batch_statistics, float eps, float activation_slope, bool abs_weight, "
      "bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def("bn_relu_statistics(Tensor hidden, Tensor(a!) mean, Tensor(b!) variance) -> ()");
  m.def(
      "bn_relu_activate(Tensor hidden, Tensor weight, Tensor bias, Tensor mean, Tensor variance, float eps, "
      "float activation_slope, bool abs_weight, Tensor(a!) activated) -> ()");
  m.def(
      "bn_relu_differentiate(Tensor grad_activated, Tensor hidden, Tensor weight, Tensor bias, Tensor mean, "
      "Tensor variance, bool batch_statistics, float eps, float activation_slope, bool abs_weight, bool[] needed, "
      "Tensor(a!)[] grads) -> ()");
  m.def(
      "channel_attention_forward(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias, "
      "Tensor running_mean, Tensor running_var, Tensor conv2_weight, float eps, float activation_slope, "
      "bool abs_weight, Tensor(a!) logits) -> ()");
  m.def(
      "channel_attention_by_batch(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias, "
      "Tensor conv2_weight, float eps, float activation_slope, bool abs_weight, Tensor(a!) logits, Tensor(b!) mean, "
      "Tensor(c!) variance) -> ()");
  m.def(
      "channel_attention_differentiate(Tensor grad, Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, "
      "Tensor bias, Tensor mean, Tensor variance, Tensor conv2_weight, bool batch_statistics, float eps, "
      "float activation_slope, bool abs_weight, bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def(
      "scale_space_weights_forward(Tensor logits, str phi, bool opaque_last, Tensor(a!) weights, "
      "Tensor(b!) transmittance) -> ()");
  m.def(
      "scale_space_weights_backward(Tensor? grad_weights, Tensor? grad_transmittance, Tensor logits, str phi, "
      "bool opaque_last, Tensor(a!) grad_logits) -> ()");
  m.def(
      "scale_space_render_forward(Tensor[] predictions, Tensor logits, str phi, bool opaque_last, "
      "bool resize_opacities, Tensor(a!) out) -> ()");
  m.def(
      "scale_space_render_backward(Tensor grad, Tensor[] predictions, Tensor logits, str phi, bool opaque_last, "
      "bool resize_opacities, bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def(
      "scale_space_labels_forward(Tensor[] predictions, Tensor logits, str phi, bool opaque_last, "
      "bool resize_opacities, str value, Tensor(a!)[] outputs) -> ()");
  m.def(
      "scale_space_cross_entropy_forward(Tensor[] predictions, Tensor logits, Tensor target, Tensor? weight, "
      "Tensor? smoothing, int ignore_index, str phi, bool opaque_last, bool resize_opacities, Tensor(a!) losses, "
      "Tensor(b!) lse) -> ()");
  m.def(
      "scale_space_cross_entropy_backward(Tensor grad, Tensor[] predictions, Tensor logits, Tensor target, "
      "Tensor? weight, Tensor? smoothing, Tensor lse, int ignore_index, str phi, bool opaque_last, "
      "bool resize_opacities, bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def(
      "resized_cross_entropy_forward(Tensor logits, Tensor target, Tensor? weight, Tensor? smoothing, "
      "int ignore_index, Tensor(a!) losses, Tensor(b!) lse) -> ()");
  m.def(
      "resized_cross_entropy_backward(Tensor grad, Tensor logits, Tensor target, Tensor? weight, Tensor? smoothing, "
      "Tensor lse, int ignore_index, Tensor(a!) grad_logits) -> ()");
  m.def("resized_labels_forward(Tensor logits, Tensor(a!) labels) -> ()");
  m.def(
      "hierarchical_fusion_forward(Tensor[] predictions, Tensor[] attentions, bool premultiplied, Tensor(a!) out) "
      "-> ()");
  m.def(
      "hierarchical_fusion_backward(Tensor grad, Tensor[] predictions, Tensor[] attentions, bool premultiplied, "
      "bool[] needed, Tensor(a!)[] grads) -> ()");
  m.def(
      "scale_space_accumulate_forward(Tensor(a!) rendered, Tensor(b!)? transmittance, Tensor prediction, "
      "Tensor weight, bool first) -> ()");
}
