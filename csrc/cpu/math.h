// Elementary functions that vectorise, exact to float rounding.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace afa {

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

// log of a normal positive number m 2^n with m near 1, from the Taylor-like series of log(m) of Cephes. A NaN stays
// one.
inline float log(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3: sqrt(1/2)
  bits -= exponent * (1 << 23);
  float m;
  std::memcpy(&m, &bits, sizeof m);
  const float r = m - 1.0f, n = static_cast<float>(exponent);
  float p = 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const float tail = p * r * r * r - 2.12194440e-4f * n - 0.5f * r * r;
  return x == x ? r + tail + 0.693359375f * n : x;
}

inline double exp(double x) {
  return std::exp(x);
}
inline double log(double x) {
  return std::log(x);
}
inline double expm1(double x) {
  return std::expm1(x);
}

template <class Acc>
inline Acc log1p(Acc x) {
  return std::log1p(x);
}

}  // namespace afa
