// The schema of every native op. Each allocates nothing that outlives it: outputs are given by the caller.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(afa_native, m) {
  m.def(
      "attentive_fusion_forward(Tensor shallow, Tensor deep, Tensor spatial_logits, Tensor channel_logits, "
      "Tensor(a!) out) -> ()");
  m.def(
      "attentive_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor spatial_logits, "
      "Tensor channel_logits, Tensor(a!)? grad_shallow, Tensor(b!)? grad_deep, Tensor(c!)? grad_spatial, "
      "Tensor(d!)? grad_channel) -> ()");
}
