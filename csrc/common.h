// What the native code of every device shares: element types and dispatch on them, 4-d views, checks.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

namespace afa {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Half = c10::Half;
using BFloat16 = c10::BFloat16;

// The type a kernel computes in: float64 for float64, float32 for everything narrower.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls body(T{}) with the element type of `dtype`. AFA_FLOAT32_ONLY leaves the others out, for tests that need one.
template <class F>
void dispatch(ScalarType dtype, const char* op, const F& body) {
  switch (dtype) {
    case ScalarType::Float: return body(float{});
#ifndef AFA_FLOAT32_ONLY
    case ScalarType::Double: return body(double{});
    case ScalarType::Half: return body(Half{});
    case ScalarType::BFloat16: return body(BFloat16{});
#endif
    default: STD_TORCH_CHECK(false, op, ": unsupported dtype ", static_cast<int>(dtype));
  }
}

// Calls body(Acc{}) with the type that `dtype` is computed in.
template <class F>
void dispatch_accumulate(ScalarType dtype, const char* op, const F& body) {
  if (dtype == ScalarType::Double) return body(double{});
  dispatch(dtype, op, [](auto) {});  // an unsupported type is found here
  body(float{});
}

// Calls body with std::true_type or std::false_type for each of the flags.
template <class F>
void dispatch_flags(const F& body) {
  body();
}
template <class F, class... Flags>
void dispatch_flags(const F& body, bool first, Flags... rest) {
  if (first)
    dispatch_flags([&](auto... flags) { body(std::true_type{}, flags...); }, rest...);
  else
    dispatch_flags([&](auto... flags) { body(std::false_type{}, flags...); }, rest...);
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A (N, C, H, W) tensor whose pixels lie at one stride: element (n, c, p) is data[n * sn + c * sc + p * sp].
template <class T>
struct Map {
  T* data;
  int64_t sn, sc, sp;

  T* at(int64_t n, int64_t c, int64_t p) const { return data + n * sn + c * sc + p * sp; }
};

inline int64_t pixel_stride(const Tensor& t) {
  return t.size(2) * t.size(3) == 1 ? 1 : t.stride(t.size(3) == 1 ? 2 : 3);
}

using Shape = std::array<int64_t, 4>;

// The sizes of a feature map and its order in memory. A row is what is contiguous: the pixels of a channel (NCHW), or
// the channels of a pixel (channels_last).
struct Layout {
  int64_t batch, channels, height, width, pixels;
  bool channels_last;

  explicit Layout(const Tensor& t)
      : batch(t.size(0)),
        channels(t.size(1)),
        height(t.size(2)),
        width(t.size(3)),
        pixels(height * width),
        channels_last(pixel_stride(t) != 1) {}

  Shape shape() const { return {batch, channels, height, width}; }
  Shape of_pixels() const { return {batch, 1, height, width}; }
  Shape of_channels() const { return {batch, channels, 1, 1}; }

  int64_t rows() const { return channels_last ? pixels : channels; }
  int64_t length() const { return channels_last ? channels : pixels; }

  // Element `first` of a row of image n.
  template <class T>
  T* at(const Map<T>& map, int64_t n, int64_t row, int64_t first) const {
    return channels_last ? map.at(n, first, row) : map.at(n, row, first);
  }
};

// Gradients, each in the place of its tensor; none where it is not needed.
using Gradients = std::vector<std::optional<Tensor>>;

inline bool any(const Gradients& grads) {
  return std::any_of(grads.begin(), grads.end(), [](const auto& t) { return t.has_value(); });
}

// The checks of the op of this name: of what would be read or written out of bounds. Python has checked the rest.
struct Checker {
  const char* op;

  void count(const char* name, size_t got, size_t expected) const {
    STD_TORCH_CHECK(got == expected, op, ": ", name, " must have ", expected, " elements, got ", got);
  }

  const Tensor& first(const char* name, const std::vector<Tensor>& tensors) const {
    STD_TORCH_CHECK(!tensors.empty(), op, ": ", name, " must not be empty");
    return tensors.front();
  }

  void type(const char* name, const Tensor& t, ScalarType expected) const {
    STD_TORCH_CHECK(t.scalar_type() == expected, op, ": ", name, " must have scalar type ", static_cast<int>(expected),
                    ", got ", static_cast<int>(t.scalar_type()));
  }

  void shape(const char* name, const Tensor& t, const Shape& expected) const {
    const auto sizes = t.sizes();
    STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end()), op, ": ", name,
                    " must have shape ", text(expected), ", got ", text(sizes));
  }

  void pixels(const char* name, const Tensor& t) const {
    STD_TORCH_CHECK(t.size(2) > 0 && t.size(3) > 0, op, ": ", name, " must have pixels, got shape ", text(t.sizes()));
  }

  void contiguous(const char* name, const Tensor& t, int64_t expected) const {
    STD_TORCH_CHECK(t.numel() == expected && t.is_contiguous(), op, ": ", name, " must be contiguous and have ",
                    expected, " elements, got shape ", text(t.sizes()), " and strides ", text(t.strides()));
  }

  // The data of a contiguous tensor of that many elements of T.
  template <class T>
  T* flat(const char* name, const Tensor& t, int64_t expected) const {
    type(name, t, torch::headeronly::CppTypeToScalarType<std::remove_const_t<T>>::value);
    contiguous(name, t, expected);
    return static_cast<T*>(t.data_ptr());
  }
  template <class T>
  T* flat(const char* name, const std::optional<Tensor>& t, int64_t expected) const {
    return t ? flat<T>(name, *t, expected) : nullptr;
  }

  // Any tensor of that shape whose pixels lie at one stride.
  template <class T>
  Map<T> view(const char* name, const Tensor& t, const Shape& expected) const {
    shape(name, t, expected);
    STD_TORCH_CHECK(t.size(2) == 1 || t.size(3) == 1 || t.stride(2) == t.stride(3) * t.size(3), op, ": ", name,
                    " must keep its pixels at one stride, got strides ", text(t.strides()));
    return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1), pixel_stride(t)};
  }

  // The same of elements T, with contiguous rows.
  template <class T>
  Map<T> map(const char* name, const Tensor& t, const Shape& expected, bool channels_last) const {
    type(name, t, torch::headeronly::CppTypeToScalarType<std::remove_const_t<T>>::value);
    const Map<T> result = view<T>(name, t, expected);
    STD_TORCH_CHECK(channels_last ? t.size(1) == 1 || result.sc == 1 : result.sp == 1, op, ": ", name,
                    " must have contiguous ", channels_last ? "channels" : "pixels", ", got strides ",
                    text(t.strides()));
    return result;
  }
  template <class T, class OptionalTensor>
  Map<T> map(const char* name, const OptionalTensor& t, const Layout& layout) const {
    if constexpr (std::is_same_v<OptionalTensor, Tensor>)
      return map<T>(name, t, layout.shape(), layout.channels_last);
    else
      return t ? map<T>(name, *t, layout) : Map<T>{nullptr, 0, 0, 0};
  }

  // `grads` are those `needed` of `expected` gradients, in order.
  Gradients spread(const std::vector<Tensor>& grads, const std::vector<bool>& needed, size_t expected) const {
    count("needed", needed.size(), expected);
    count("grads", grads.size(), std::count(needed.begin(), needed.end(), true));
    Gradients all;
    auto next = grads.begin();
    for (const bool n : needed) all.push_back(n ? std::optional<Tensor>(*next++) : std::nullopt);
    return all;
  }

 private:
  template <class Values>
  static std::string text(const Values& values) {
    std::string result;
    for (const int64_t v : values) result += (result.empty() ? "(" : ", ") + std::to_string(v);
    return result.empty() ? "()" : result + ")";
  }
};

}  // namespace afa
