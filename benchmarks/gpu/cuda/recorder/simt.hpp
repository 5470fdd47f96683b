// In the place of tests/simt/simt.hpp, with which the tests run CUDA's kernels on a CPU: g++ compiles the same kernels
// and launchers, but a launch is written down, and its kernel not run. Tensors are never touched, so that they may be
// large.
#pragma once

#define launch execute
#include "../../../../tests/simt/simt.hpp"
#undef launch

#include <initializer_list>

namespace simt {

struct Argument {
  const void* data;
  size_t size, alignment;
};

void record(const void* kernel, unsigned blocks, unsigned threads, std::initializer_list<Argument> arguments);

template <class... Parameters, class... Arguments>
void launch(unsigned blocks, unsigned threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
  const std::tuple<Parameters...> given(arguments...);
  std::apply(
      [&](const Parameters&... each) {
        record(reinterpret_cast<const void*>(kernel), blocks, threads,
               {{&each, sizeof(Parameters), alignof(Parameters)}...});
      },
      given);
}

}  // namespace simt
