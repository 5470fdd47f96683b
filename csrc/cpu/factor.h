// The factors of a progressive fusion's weights: A_k = a_k prod_{j>k} (1-a_j) at every pixel, and B_k =
// b_k prod_{j>k} (1-b_j) at every channel, a_k and b_k the sigmoids of the logits.
#pragma once

#include "gate.h"

namespace afa {

enum class Of { pixels, channels };

// A of the pixels or B of the channels, for every image and input a row of `size` values.
template <class Acc>
class Factor {
 public:
  // logits: K of (N, 1, H, W), or K of (N, C, 1, 1).
  Factor(const Checker& check, const Layout& layout, const std::vector<Tensor>& logits, Of of, const char* name)
      : size(of == Of::pixels ? layout.pixels : layout.channels),
        shape(of == Of::pixels ? layout.of_pixels() : layout.of_channels()),
        of_(of),
        inputs_(logits.size()),
        gate_(layout.batch * inputs_ * size),
        weight_(uninitialized<Acc>(layout.batch * inputs_ * size)) {
    std::vector<AnyMap> maps;
    for (const Tensor& t : logits) maps.emplace_back(check, name, t, shape);
    constexpr int64_t length = 2048;
    for_each_tile<Acc>(layout.batch, size, length, length, [&](const Piece& tile, Acc* left) {
      const int64_t count = tile.count;
      std::fill_n(left, count, Acc(1));
      for (int64_t k = inputs_ - 1; k >= 0; --k) {
        const int64_t at = (tile.n * inputs_ + k) * size + tile.first;
        if (of_ == Of::pixels)
          maps[k].read_pixels(tile.n, 0, tile.first, count, &gate_.open[at]);
        else
          maps[k].read_channels(tile.n, tile.first, count, &gate_.open[at]);
        gate_.activate(at, count);
        for (int64_t i = 0; i < count; ++i) {
          weight_[at + i] = gate_.open[at + i] * left[i];
          left[i] *= gate_.shut[at + i];
        }
      }
    });
  }

  const Acc* weights(int64_t n, int64_t k) const { return &weight_[(n * inputs_ + k) * size]; }

  // From the gradients that reach the weights, sums[k * stride + i], those of the logits: with S_k = A_k dA_k it is
  // (1-a_k) S_k - a_k sum_{j<k} S_j, in which nothing is divided. `before` is scratch.
  template <class Sum>
  void write_gradients(int64_t n, int64_t first, int64_t count, Sum* sums, int64_t stride, Sum* before,
                       const std::vector<std::optional<AnyMap>>& grads) const {
    std::fill_n(before, count, Sum(0));
    for (int64_t k = 0; k < inputs_; ++k) {
      const int64_t at = (n * inputs_ + k) * size + first;
      Sum* row = sums + k * stride;
      for (int64_t i = 0; i < count; ++i) {
        const Sum sum = weight_[at + i] * row[i];
        row[i] = gate_.shut[at + i] * sum - gate_.open[at + i] * before[i];
        before[i] += sum;
      }
      if (!grads[k]) continue;
      if (of_ == Of::pixels)
        grads[k]->write_pixels(n, 0, first, count, row);
      else
        grads[k]->write_channels(n, first, count, row);
    }
  }

  const int64_t size;
  const Shape shape;  // of a logit

 private:
  Of of_;
  int64_t inputs_;
  Gate<Acc> gate_;
  std::unique_ptr<Acc[]> weight_;
};

}  // namespace afa
