# What every target of this project is compiled with: link project_options PRIVATE, nothing is global.
# PROJECT_SANITIZE (address,undefined or thread) has to reach every object of a program, tests included.

option(PROJECT_WERROR "Treat compiler warnings as errors" OFF)
set(PROJECT_SANITIZE "" CACHE STRING "Value for -fsanitize=, or empty")

add_library(project_options INTERFACE)
target_compile_features(project_options INTERFACE cxx_std_20)
target_compile_options(project_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                                 $<$<BOOL:${PROJECT_WERROR}>:-Werror>)
if(PROJECT_SANITIZE)
  target_compile_options(project_options INTERFACE -fsanitize=${PROJECT_SANITIZE}
                                                   -fno-sanitize-recover=all
                                                   -fno-omit-frame-pointer)
  target_link_options(project_options INTERFACE -fsanitize=${PROJECT_SANITIZE})
endif()
