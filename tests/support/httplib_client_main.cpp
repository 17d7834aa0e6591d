// httplib-client: asks once, with cpp-httplib's client as it comes and a second for each of its
// timeouts. scripts/demo.sh shows what that means where the answer drips.

#include <httplib.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: httplib-client http://HOST:PORT\n";
    return 2;
  }
  httplib::Client client(argv[1]);
  client.set_connection_timeout(1);
  client.set_read_timeout(1);
  client.set_write_timeout(1);
  const auto result = client.Get("/echo?msg=hello");
  if (result) {
    std::cout << result->status << " " << result->body;
  } else {
    std::cout << "no answer: " << httplib::to_string(result.error()) << "\n";
  }
  return result ? 0 : 1;
}
