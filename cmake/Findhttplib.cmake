# Finds cpp-httplib as Debian ships it: a header, a shared library and a .pc file whose flags are part of
# the ABI (without them sizeof(httplib::Request) differs). Defines httplib::httplib.

if(PROJECT_HTTPLIB_DIR)
  if(NOT TARGET httplib::httplib)
    add_library(httplib::httplib INTERFACE IMPORTED)
    target_include_directories(httplib::httplib SYSTEM INTERFACE ${PROJECT_HTTPLIB_DIR})
    target_link_libraries(httplib::httplib INTERFACE Threads::Threads)
  endif()
  set(httplib_FOUND TRUE)
  return()
endif()

find_package(PkgConfig QUIET)
if(PKG_CONFIG_FOUND)
  pkg_check_modules(cpp_httplib QUIET IMPORTED_TARGET cpp-httplib)
endif()
if(TARGET PkgConfig::cpp_httplib AND NOT TARGET httplib::httplib)
  add_library(httplib::httplib ALIAS PkgConfig::cpp_httplib)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(httplib REQUIRED_VARS cpp_httplib_FOUND VERSION_VAR cpp_httplib_VERSION)
