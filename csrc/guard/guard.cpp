#include "guard.h"

namespace apex::guard {

namespace {

thread_local Scope * innermost = nullptr;

void on_abort(const char * message) {
    if (innermost == nullptr) {
        return;
    }
    const char * start = message;
    for (const char * p = message; *p != '\0' && *p != ' '; ++p) {
        if (*p == '/' || *p == '\\') {
            start = p + 1;
        }
    }
    throw UpstreamError(printable(start));
}

}  // namespace

void collect_log(ggml_log_level level, const char * text, void * /*user_data*/) {
    if (innermost != nullptr && (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_CONT)) {
        innermost->log_ += text;
    }
}

void install() {
    ggml_set_abort_callback(on_abort);
    ggml_log_set(collect_log, nullptr);
}

Scope::Scope() : outer_(innermost) {
    innermost = this;
}

Scope::~Scope() {
    innermost = outer_;
}

std::string Scope::errors() const {
    const auto first = log_.find_first_not_of(" \n");
    const auto last = log_.find_last_not_of(" \n");
    return first == std::string::npos ? std::string()
                                      : printable(log_.substr(first, last - first + 1));
}

std::string printable(std::string text) {
    for (char & c : text) {
        if (c != '\n' && (c < ' ' || c > '~')) {
            c = '?';
        }
    }
    return text;
}

}  // namespace apex::guard
