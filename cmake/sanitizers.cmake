# -DMIXWRIGHT_SANITIZE=address,undefined instruments everything we compile, the pinned sources included.
set(MIXWRIGHT_SANITIZE "" CACHE STRING "sanitizers for -fsanitize=")
if(MIXWRIGHT_SANITIZE)
  add_compile_options(-fsanitize=${MIXWRIGHT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g)
  add_link_options(-fsanitize=${MIXWRIGHT_SANITIZE})
endif()
