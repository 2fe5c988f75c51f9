# One library out of the pinned llama.cpp sources that tools/setup.sh unpacks: ggml-base (block formats of GGUF and
# their conversions). Nothing else of it is compiled; its chat templates and vocabularies serve the tests.

set(llama_root ${MIXWRIGHT_DEPS}/llama.cpp)
if(NOT EXISTS ${llama_root}/ggml/src/ggml-quants.c)
  message(FATAL_ERROR "no llama.cpp sources in ${llama_root}; run `make setup`")
endif()

set(ggml_sources ggml.c ggml.cpp ggml-alloc.c ggml-backend.cpp ggml-backend-meta.cpp ggml-opt.cpp ggml-threading.cpp
  ggml-quants.c gguf.cpp)
list(TRANSFORM ggml_sources PREPEND ${llama_root}/ggml/src/)
add_library(ggml-base STATIC ${ggml_sources})
set(GGML_VERSION pinned)
set(GGML_BUILD_COMMIT pinned)
configure_file(${llama_root}/ggml/src/ggml-version.h.in ${CMAKE_BINARY_DIR}/ggml/ggml-version.h @ONLY)
target_include_directories(ggml-base SYSTEM PUBLIC ${llama_root}/ggml/include
  PRIVATE ${llama_root}/ggml/src ${CMAKE_BINARY_DIR}/ggml)
target_compile_definitions(ggml-base PRIVATE _GNU_SOURCE _XOPEN_SOURCE=600)
target_link_libraries(ggml-base PRIVATE Threads::Threads m ${CMAKE_DL_LIBS})
target_compile_options(ggml-base PRIVATE -w)
