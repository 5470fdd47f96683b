// What every native kernel shares: element types, 4-d views, exact elementary functions that vectorise, checks.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "cpu/isa.h"

namespace afa {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Half = c10::Half;
using BFloat16 = c10::BFloat16;

// The type a kernel computes in: float64 for float64, float32 for everything narrower.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls body(T{}) with the element type of `dtype`.
template <class F>
void dispatch(ScalarType dtype, const char* op, const F& body) {
  switch (dtype) {
    case ScalarType::Float: return body(float{});
    case ScalarType::Double: return body(double{});
    case ScalarType::Half: return body(Half{});
    case ScalarType::BFloat16: return body(BFloat16{});
    default: STD_TORCH_CHECK(false, op, ": unsupported dtype ", static_cast<int>(dtype));
  }
}

// A (N, C, H, W) tensor whose pixels lie at one stride: element (n, c, p) is data[n * sn + c * sc + p * sp].
template <class T>
struct Map {
  T* data;
  int64_t sn, sc, sp;

  T* at(int64_t n, int64_t c, int64_t p) const { return data + n * sn + c * sc + p * sp; }
};

template <class T>
Map<T> as_map(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4, name, " must have 4 dimensions, got ", t.dim());
  const int64_t height = t.size(2), width = t.size(3);
  STD_TORCH_CHECK(height == 1 || width == 1 || t.stride(2) == t.stride(3) * width, name,
                  " must keep its pixels at one stride, got strides ", t.stride(2), " and ", t.stride(3));
  const int64_t sp = height * width == 1 ? 1 : width == 1 ? t.stride(2) : t.stride(3);
  STD_TORCH_CHECK(sp == 1 || t.stride(1) == 1 || t.size(1) == 1, name,
                  " must be contiguous along its pixels or its channels, got strides ", t.stride(1), " and ", sp);
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1), sp};
}

template <class T>
Map<T> as_map(const std::optional<Tensor>& t, const char* name) {
  return t ? as_map<T>(*t, name) : Map<T>{nullptr, 0, 0, 0};
}

// A small map read and written in the arithmetic type whatever its own: logits, and their gradients.
class AnyMap {
 public:
  AnyMap(const Tensor& t, const char* name) : dtype_(t.scalar_type()), map_(as_map<char>(t, name)) {}

  // values[i] = element (n, c, p) with i counted along pixels (`read_pixels`) or along channels (`read_channels`).
  template <class Acc>
  void read_pixels(int64_t n, int64_t c, int64_t p, int64_t count, Acc* values) const {
    read(n * map_.sn + c * map_.sc + p * map_.sp, map_.sp, count, values);
  }
  template <class Acc>
  void read_channels(int64_t n, int64_t c, int64_t count, Acc* values) const {
    read(n * map_.sn + c * map_.sc, map_.sc, count, values);
  }
  template <class Acc>
  void write_pixels(int64_t n, int64_t c, int64_t p, int64_t count, const Acc* values) const {
    write(n * map_.sn + c * map_.sc + p * map_.sp, map_.sp, count, values);
  }
  template <class Acc>
  void write_channels(int64_t n, int64_t c, int64_t count, const Acc* values) const {
    write(n * map_.sn + c * map_.sc, map_.sc, count, values);
  }

 private:
  template <class Acc>
  void read(int64_t offset, int64_t stride, int64_t count, Acc* values) const {
    dispatch(dtype_, "read", [&](auto t) {
      const auto* data = reinterpret_cast<const decltype(t)*>(map_.data) + offset;
      for (int64_t i = 0; i < count; ++i) values[i] = static_cast<Acc>(data[i * stride]);
    });
  }
  template <class Acc>
  void write(int64_t offset, int64_t stride, int64_t count, const Acc* values) const {
    dispatch(dtype_, "write", [&](auto t) {
      auto* data = reinterpret_cast<decltype(t)*>(map_.data) + offset;
      for (int64_t i = 0; i < count; ++i) data[i * stride] = static_cast<decltype(t)>(values[i]);
    });
  }

  ScalarType dtype_;
  Map<char> map_;
};

// Rows in the arithmetic type. Half and BFloat16 are structs, which defeat the vectoriser in any but the plainest loop,
// so a narrow row is converted in a loop of its own, in the cache.
template <class T, class Acc>
inline const Acc* widened(const T* row, int64_t count, Acc* buffer) {
  if constexpr (std::is_same_v<T, Acc>) {
    return row;
  } else {
    for (int64_t i = 0; i < count; ++i) buffer[i] = static_cast<Acc>(row[i]);
    return buffer;
  }
}

// Where the values of `row` are computed before `store`: in place, or in `buffer` if the row is narrow or null.
template <class T, class Acc>
inline Acc* computed_in(T* row, Acc* buffer) {
  if constexpr (std::is_same_v<T, Acc>) {
    return row ? row : buffer;
  } else {
    return buffer;
  }
}

template <class T, class Acc>
inline void store(const Acc* values, int64_t count, T* row) {
  if constexpr (!std::is_same_v<T, Acc>) {
    if (row)
      for (int64_t i = 0; i < count; ++i) row[i] = static_cast<T>(values[i]);
  }
}

// A fresh output costs a page fault for every 4 KiB, which is most of the time of a one-pass kernel. The kernel is
// about to write all of it, so ask for 2 MiB pages; a system that has none ignores the request.
inline void back_with_huge_pages(const Tensor& output) {
#ifdef __linux__
  constexpr uintptr_t page = 4096, least = 4 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(output.data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + output.numel() * output.element_size()) / page * page;
  if (last > first && last - first >= least) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// e^x - 1 = 2^n (e^r - 1) + (2^n - 1) with x = n ln 2 + r; the Taylor series of e^r - 1 ends below float rounding.
struct Expm1Parts {
  float series, half_scale, rest_scale;  // e^r - 1, and 2^n as the product of two normal numbers
};

inline float power_of_two(int32_t n) {
  const int32_t bits = (n + 127) << 23;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline Expm1Parts expm1_parts(float x) {
  x = x > 90.0f ? 90.0f : x;  // a NaN passes both comparisons unchanged
  x = x < -105.0f ? -105.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23 rounds to the nearest integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  int32_t exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent -= 0x4b400000;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  return {p * r * r + r, power_of_two(exponent >> 1), power_of_two(exponent - (exponent >> 1))};
}

inline float exp(float x) {
  const Expm1Parts e = expm1_parts(x);
  return (e.series + 1.0f) * e.half_scale * e.rest_scale;
}

inline float expm1(float x) {
  const Expm1Parts e = expm1_parts(x);
  const float scale = e.half_scale * e.rest_scale;
  return e.series * e.half_scale * e.rest_scale + (scale - 1.0f);
}

inline double exp(double x) {
  return std::exp(x);
}
inline double expm1(double x) {
  return std::expm1(x);
}

template <class Acc>
inline Acc sigmoid(Acc z) {
  return Acc(1) / (Acc(1) + exp(-z));
}

// Gradients, each in the place of its tensor; none where it is not needed.
using Gradients = std::vector<std::optional<Tensor>>;

// `grads` are those `needed` of `count` gradients, in order.
inline Gradients spread(const char* op, const std::vector<Tensor>& grads, const std::vector<bool>& needed,
                        size_t count) {
  STD_TORCH_CHECK(needed.size() == count, op, ": needed must have ", count, " elements, got ", needed.size());
  const auto wanted = static_cast<size_t>(std::count(needed.begin(), needed.end(), true));
  STD_TORCH_CHECK(grads.size() == wanted, op, ": grads must hold the ", wanted, " needed, got ", grads.size());
  Gradients all;
  auto next = grads.begin();
  for (const bool n : needed) all.push_back(n ? std::optional<Tensor>(*next++) : std::nullopt);
  return all;
}

inline bool any(const Gradients& grads) {
  return std::any_of(grads.begin(), grads.end(), [](const auto& t) { return t.has_value(); });
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace afa
