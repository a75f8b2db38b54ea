// For a build whose one backend is upstream's own, tuned for this machine.
#include <cstdlib>
#include <stdexcept>

#include "variants.h"

namespace apex::variants {

std::vector<std::string> available() {
    return {"native"};
}

std::string active() {
    const char * wanted = std::getenv("APEX_CPU_VARIANT");
    if (wanted != nullptr && *wanted != '\0' && std::string(wanted) != "native") {
        throw std::invalid_argument("APEX_CPU_VARIANT is '" + std::string(wanted) +
                                    "', but this CPU and build have native");
    }
    return "native";
}

}  // namespace apex::variants
