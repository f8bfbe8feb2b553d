// The emulator's own functions for Python. Apart from emulator.cpp, so that sanitizers need not
// watch pybind11, which takes long to compile.
#include <pybind11/pybind11.h>

#include <map>
#include <string>

#include "emulator.h"

namespace emulator {

void bind(pybind11::module_& module) {
  namespace py = pybind11;
  counting::bind(module);
  module.def(
      "set_schedule",
      [](const std::string& order, uint64_t seed, int poison) {
        const std::map<std::string, Order> orders{{"ascending", Order::kAscending},
                                                  {"descending", Order::kDescending},
                                                  {"shuffled", Order::kShuffled}};
        const auto found = orders.find(order);
        if (found == orders.end()) {
          throw py::value_error("set_schedule: order is '" + order +
                                "', it should be ascending, descending or shuffled");
        }
        schedule = {found->second, seed, static_cast<unsigned char>(poison)};
      },
      py::arg("order"), py::arg("seed"), py::arg("poison"));
}

}  // namespace emulator
