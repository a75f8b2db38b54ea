#include "library.h"

#include <llama.h>

#include "guard/guard.h"

namespace apex::llama {

void install_log() {
    llama_log_set(guard::collect_log, nullptr);
}

const char * version() {
    return llama_version();
}

}  // namespace apex::llama
