# Makes page_html.hpp of page.html: the text, and the hashes of its script and its style.

# Content-Security-Policy wants the digest as base64 of its bytes, CMake has it in hexadecimal.
function(hash_of_element name result)
  string(REGEX MATCH "<${name}>(.*)</${name}>" _ "${html}")
  string(SHA256 hex "${CMAKE_MATCH_1}")
  set(alphabet ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/)
  set(base64 "")
  foreach(start RANGE 0 63 3)  # three hexadecimal digits, 12 bits, are two characters
    string(SUBSTRING ${hex}00 ${start} 3 digits)
    foreach(shift 6 0)
      math(EXPR index "(0x${digits} >> ${shift}) & 63")
      string(SUBSTRING ${alphabet} ${index} 1 character)
      string(APPEND base64 ${character})
    endforeach()
  endforeach()
  string(REGEX REPLACE ".$" "=" base64 ${base64})  # 32 bytes are 43 characters and a pad
  set(${result} ${base64} PARENT_SCOPE)
endfunction()

set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS page.html)
file(READ page.html html)
hash_of_element(script script_hash)
hash_of_element(style style_hash)
file(CONFIGURE OUTPUT page_html.hpp @ONLY CONTENT [[
constexpr const char* kScriptHash = "sha256-@script_hash@";
constexpr const char* kStyleHash = "sha256-@style_hash@";
constexpr const char* kHtml = R"~~~(@html@)~~~";
]])
