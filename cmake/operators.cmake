# lib/mixwright_operators.so: the operators of ops/torch_library.cpp for programs with a libtorch of their own, as Python has one. The sources they
# stand on are compiled once more, since code of a shared library must be position-independent and that of the binary is not.
set(operator_sources torch_library expert_dispatch expert_kernels expert_loops expert_matmul expert_matvec expert_order expert_panels gemm kernel_use linear
  mlp panel_linear panel_product parallel product quantized_linear skinny_linear work_sharing)
set(operator_kernels bf16_dots bf16_panels gemm matmul matvec quantize)
list(TRANSFORM operator_sources REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/src/ops/\\1.cpp")
list(TRANSFORM operator_kernels REPLACE "(.+)" "${CMAKE_SOURCE_DIR}/src/kernels/\\1.cpp")
set_source_files_properties(${operator_kernels} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)  # they know no libtorch

add_library(mixwright-operators MODULE ${operator_sources} ${operator_kernels})
set_target_properties(mixwright-operators PROPERTIES PREFIX "" OUTPUT_NAME mixwright_operators CXX_VISIBILITY_PRESET hidden
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
target_compile_options(mixwright-operators PRIVATE ${MIXWRIGHT_WARNINGS} ${MIXWRIGHT_OPTIONS_ops})
target_link_libraries(mixwright-operators PRIVATE mixwright-precompiled ${MIXWRIGHT_LINKS_kernels})
target_link_options(mixwright-operators PRIVATE -Wl,--no-undefined)  # a source that is missing above is missed here
