# cmake --install, and cpack -G DEB. Configure with the prefix that is meant (preset `package`: /usr):
# the units name where the programs are.

include(GNUInstallDirs)
find_program(HELP2MAN help2man)
find_program(GZIP gzip)

install(TARGETS service-a service-b)
set(configuration ${CMAKE_INSTALL_FULL_SYSCONFDIR}/default)
set(port_service-a 8080)
set(port_service-b 8081)
set(about_service-a "answers /echo over HTTP")
set(about_service-b "answers /call-echo by calling service-a over HTTP")
foreach(service service-a service-b)
  set(port ${port_${service}})
  set(about ${about_${service}})
  foreach(unit service socket)
    configure_file(deploy/systemd/unit.${unit}.in ${PROJECT_BINARY_DIR}/${service}.${unit} @ONLY)
    install(FILES ${PROJECT_BINARY_DIR}/${service}.${unit} DESTINATION lib/systemd/system)
  endforeach()
  # What somebody has configured stays as it is.
  install(CODE "
    if(NOT EXISTS \"\$ENV{DESTDIR}${configuration}/${service}\")
      file(INSTALL \"${PROJECT_SOURCE_DIR}/deploy/systemd/default/${service}\" DESTINATION \"${configuration}\")
    endif()")
  if(HELP2MAN AND GZIP AND NOT PROJECT_SANITIZE)
    set(page ${PROJECT_BINARY_DIR}/${service}.1)
    add_custom_command(
      OUTPUT ${page}.gz
      COMMAND ${HELP2MAN} --no-info --name=${about} --output=${page} $<TARGET_FILE:${service}>
      COMMAND ${GZIP} -9nf ${page}
      DEPENDS ${service}
      VERBATIM)
    add_custom_target(${service}.1 ALL DEPENDS ${page}.gz)
    install(FILES ${page}.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  endif()
endforeach()
install(FILES deploy/debian/copyright TYPE DOC)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGING_INSTALL_PREFIX ${CMAKE_INSTALL_PREFIX})
set(CPACK_SET_DESTDIR ON)  # for /etc, which is in no prefix
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_CONTACT "The maintainers of two-services <two-services@localhost>")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
    "Service A answers /echo. Service B answers /call-echo by asking A, and says
what is wrong when A is down, slow or broken. Neither starts by itself:
enable service-a or service-b, or their sockets, with systemctl.")
file(WRITE ${PROJECT_BINARY_DIR}/debian/conffiles
     "${configuration}/service-a\n${configuration}/service-b\n")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
    ${PROJECT_BINARY_DIR}/debian/conffiles ${PROJECT_SOURCE_DIR}/deploy/debian/postinst
    ${PROJECT_SOURCE_DIR}/deploy/debian/prerm ${PROJECT_SOURCE_DIR}/deploy/debian/postrm)
include(CPack)
