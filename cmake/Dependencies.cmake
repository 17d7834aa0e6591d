# Debian's packages first; where a system has none, the same libraries are downloaded as sources.
# FIND_PACKAGE_ARGS must come last in each FetchContent_Declare.

include(FetchContent)
list(APPEND CMAKE_MODULE_PATH ${CMAKE_CURRENT_LIST_DIR})

find_package(Threads REQUIRED)

# Findhttplib.cmake finds Debian's split build; PROJECT_HTTPLIB_DIR tries another version from a folder.
set(PROJECT_HTTPLIB_DIR "" CACHE PATH "Folder with another cpp-httplib's httplib.h, instead of the system's")
FetchContent_Declare(httplib GIT_REPOSITORY https://github.com/yhirose/cpp-httplib.git
                     GIT_TAG v0.53.1 SYSTEM FIND_PACKAGE_ARGS MODULE)
FetchContent_Declare(nlohmann_json GIT_REPOSITORY https://github.com/nlohmann/json.git
                     GIT_TAG v3.11.3 SYSTEM FIND_PACKAGE_ARGS 3.11)
FetchContent_Declare(spdlog GIT_REPOSITORY https://github.com/gabime/spdlog.git
                     GIT_TAG v1.14.1 SYSTEM FIND_PACKAGE_ARGS 1.10)
FetchContent_Declare(CLI11 GIT_REPOSITORY https://github.com/CLIUtils/CLI11.git
                     GIT_TAG v2.4.2 SYSTEM FIND_PACKAGE_ARGS 2.1)
FetchContent_Declare(prometheus-cpp GIT_REPOSITORY https://github.com/jupp0r/prometheus-cpp.git
                     GIT_TAG v1.2.4 SYSTEM FIND_PACKAGE_ARGS)
set(ENABLE_PULL OFF)
set(ENABLE_PUSH OFF)
set(ENABLE_TESTING OFF)
FetchContent_MakeAvailable(httplib nlohmann_json spdlog CLI11 prometheus-cpp)

find_package(Boost 1.74 REQUIRED COMPONENTS context)

if(BUILD_TESTING)
  FetchContent_Declare(googletest GIT_REPOSITORY https://github.com/google/googletest.git
                       GIT_TAG v1.14.0 SYSTEM FIND_PACKAGE_ARGS NAMES GTest)
  FetchContent_MakeAvailable(googletest)
endif()
