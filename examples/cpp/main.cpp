// Runs a package of AOTInductor that was exported with afa_kernels.export_decompositions(). No Python.
//
//     run LIBRARY PACKAGE TENSORS
//
// LIBRARY is _native.abi3.so of afa_kernels, which has the operators; TENSORS a list that torch.save has written: the
// inputs of the model and, last, what it must give. Prints how far the result is from that.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: " << arguments[0] << " LIBRARY PACKAGE TENSORS\n";
    return 2;
  }
  if (!dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL)) {
    std::cerr << dlerror() << "\n";
    return 1;
  }
  try {
    std::ifstream file(arguments[3], std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::vector<at::Tensor> tensors;
    const c10::IValue loaded = torch::pickle_load(bytes);
    for (const c10::IValue& value : loaded.toListRef()) tensors.push_back(value.toTensor());
    const at::Tensor expected = tensors.back();
    tensors.pop_back();

    const torch::InferenceMode guard;
    torch::inductor::AOTIModelPackageLoader model(arguments[2]);
    const at::Tensor result = model.run(tensors).at(0);
    const double difference = (result - expected).abs().max().item<double>();
    std::cout << "shape " << result.sizes() << ", difference " << difference << "\n";
    return difference <= 1e-5 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
