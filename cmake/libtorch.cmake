# libtorch out of the PyTorch wheel, C++ side only: nothing links libtorch_python. The wheel's own TorchConfig is
# not used because, with a CUDA wheel, it asks for a whole CUDA toolkit that linking does not need.

execute_process(
  COMMAND ${MIXWRIGHT_VENV}/bin/python -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE torch_root OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(FATAL_ERROR "no PyTorch wheel in ${MIXWRIGHT_VENV}; run `make setup`")
endif()

add_library(mixwright-libtorch INTERFACE)
# After the system's folders: the wheel carries headers of its own fmt, which must not shadow the one we link.
target_compile_options(mixwright-libtorch INTERFACE
  -idirafter${torch_root}/include -idirafter${torch_root}/include/torch/csrc/api/include)
target_link_directories(mixwright-libtorch INTERFACE ${torch_root}/lib)
target_link_libraries(mixwright-libtorch INTERFACE ${torch_root}/lib/libtorch_cpu.so ${torch_root}/lib/libc10.so)
# The OpenMP that libtorch itself runs on: a second one would be a second set of threads.
file(GLOB torch_openmp ${torch_root}/lib/libgomp*.so*)
if(torch_openmp)
  target_link_libraries(mixwright-libtorch INTERFACE ${torch_openmp})
else()
  find_package(OpenMP REQUIRED)
  target_link_libraries(mixwright-libtorch INTERFACE OpenMP::OpenMP_CXX)
endif()
if(EXISTS ${torch_root}/lib/libtorch_cuda.so)
  # CUDA kernels register themselves when their library is loaded: keep it although no symbol of it is named. What it needs itself
  # lies in the wheels of NVIDIA's libraries, where it looks for them when it is loaded; linking does without.
  target_link_libraries(mixwright-libtorch INTERFACE -Wl,--allow-shlib-undefined -Wl,--push-state,--no-as-needed
    ${torch_root}/lib/libtorch_cuda.so ${torch_root}/lib/libc10_cuda.so -Wl,--pop-state)
endif()

# ATen costs seconds to parse: parse it once.
if(NOT EXISTS ${CMAKE_BINARY_DIR}/precompiled.cpp)  # or every configuration would build it anew
  file(WRITE ${CMAKE_BINARY_DIR}/precompiled.cpp "")
endif()
add_library(mixwright-precompiled STATIC ${CMAKE_BINARY_DIR}/precompiled.cpp)
target_link_libraries(mixwright-precompiled PUBLIC mixwright-libtorch fmt::fmt nlohmann_json::nlohmann_json Threads::Threads)
target_include_directories(mixwright-precompiled PUBLIC ${CMAKE_SOURCE_DIR}/src)
target_precompile_headers(mixwright-precompiled PUBLIC
  <ATen/ATen.h> <torch/csrc/autograd/custom_function.h> <torch/library.h> <fmt/format.h> <nlohmann/json.hpp>)
target_compile_options(mixwright-precompiled PRIVATE -fpch-preprocess)
