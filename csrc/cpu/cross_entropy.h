// What the cross-entropies share: the classes of the pixels, and what each class weighs in the loss
//
//   weight_t (lse - r_t) + sum_c smoothing_c (lse - r_c)        lse = log(sum_c exp(r_c))
#pragma once

#include <limits>

#include "../common.h"

namespace afa {

constexpr int32_t IGNORED = -1, WRONG = -2;  // targets that are no class

template <class Acc>
struct Classes {
  const Tensor& target;
  int64_t ignore_index, channels;
  const Acc *weight, *smoothing;  // null for 1, and for 0
  Acc smoothed;                   // the sum of the smoothing

  Classes(const Checker& check, const Tensor& targets, const std::optional<Tensor>& weights,
          const std::optional<Tensor>& smooth, int64_t ignored, int64_t count, int64_t pixels)
      : target(targets),
        ignore_index(ignored),
        channels(count),
        weight(check.flat<const Acc>("weight", weights, count)),
        smoothing(check.flat<const Acc>("smoothing", smooth, count + 1)),
        smoothed(smoothing ? smoothing[count] : Acc(0)) {
    check.contiguous("target", target, pixels);
    const ScalarType type = target.scalar_type();
    STD_TORCH_CHECK(type == ScalarType::Byte || type == ScalarType::Int || type == ScalarType::Long, check.op,
                    ": target has an unsupported dtype ", static_cast<int>(type));
  }

  // The class of each of `count` pixels from `at`, or why it has none.
  void read(int64_t at, int64_t count, int32_t* classes) const {
    const auto from = [&](const auto* data) {
      for (int64_t i = 0; i < count; ++i) {
        const auto t = static_cast<int64_t>(data[at + i]);
        classes[i] = t == ignore_index ? IGNORED : t >= 0 && t < channels ? static_cast<int32_t>(t) : WRONG;
      }
    };
    switch (target.scalar_type()) {
      case ScalarType::Byte: return from(static_cast<const uint8_t*>(target.data_ptr()));
      case ScalarType::Int: return from(static_cast<const int32_t*>(target.data_ptr()));
      default: return from(static_cast<const int64_t*>(target.data_ptr()));
    }
  }

  // `value` times the weight of class t, NaN if that is no class; 0 where the pixel is ignored, whatever the value.
  Acc weighted(int32_t t, Acc value) const {
    if (t >= 0) return weight ? weight[t] * value : value;
    return t == IGNORED ? Acc(0) : std::numeric_limits<Acc>::quiet_NaN();
  }
};

}  // namespace afa
