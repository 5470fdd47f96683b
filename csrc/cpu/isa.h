// One binary for every x86-64: a kernel body is compiled once per instruction set and chosen at run time.
#pragma once

#include <cstdlib>
#include <string_view>

namespace afa {

enum class Isa { baseline, avx2, avx512 };

#if defined(__x86_64__) && defined(__GNUC__)

// The best that the processor has, or less if PyTorch's own ATEN_CPU_CAPABILITY says so.
inline Isa isa() {
  static const Isa best = [] {
    const char* asked = std::getenv("ATEN_CPU_CAPABILITY");
    const std::string_view most = asked ? asked : "";
    if (most == "default") return Isa::baseline;
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 && most != "avx2" ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
  }();
  return best;
}

#define AFA_TARGET_AVX2 [[gnu::target("avx2,fma,f16c")]]
#define AFA_TARGET_AVX512 [[gnu::target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]]

// `flatten` inlines the whole body into the function, where it is vectorised for the function's target.
template <class F>
[[gnu::flatten, gnu::noinline]] void run_baseline(const F& body) {
  body();
}
template <class F>
[[gnu::flatten, gnu::noinline]] AFA_TARGET_AVX2 void run_avx2(const F& body) {
  body();
}
template <class F>
[[gnu::flatten, gnu::noinline]] AFA_TARGET_AVX512 void run_avx512(const F& body) {
  body();
}

template <class F>
void vectorized(const F& body) {
  switch (isa()) {
    case Isa::avx512: return run_avx512(body);
    case Isa::avx2: return run_avx2(body);
    case Isa::baseline: return run_baseline(body);
  }
}

#else

inline Isa isa() {
  return Isa::baseline;
}

template <class F>
void vectorized(const F& body) {
  body();
}

#endif

}  // namespace afa
