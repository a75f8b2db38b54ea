// libllama as a whole.
#pragma once

namespace apex::llama {

// Sends libllama's log to csrc/guard; called once, when the extension is loaded.
void install_log();

// The version of llama.cpp.
const char * version();

}  // namespace apex::llama
