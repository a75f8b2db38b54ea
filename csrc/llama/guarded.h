// Calls into libllama whose failure becomes one kind of exception.
#pragma once

#include <string>
#include <utility>

#include "guard/guard.h"
#include "type_rules.h"

namespace apex::llama {

// A ModelError with what upstream logged.
inline ModelError failure(const guard::Scope & scope, const std::string & what) {
    const std::string log = scope.errors();
    return ModelError(log.empty() ? what : what + ": " + log);
}

// Runs function(scope). Upstream's assertions throw on this thread inside a Scope.
template <typename Function>
auto guarded(const char * what, Function && function) {
    guard::Scope scope;
    try {
        return std::forward<Function>(function)(scope);
    } catch (const guard::UpstreamError & error) {
        throw ModelError(std::string(what) + ": " + error.what());
    }
}

}  // namespace apex::llama
