// Turns the ways in which ggml and libllama report trouble into C++ exceptions.
//
// Upstream aborts the process when an assertion fails and writes its log to stderr. Inside a
// Scope, a failed assertion on this thread throws UpstreamError instead, and error messages are
// collected. Outside of any Scope upstream's log is dropped and an abort stays an abort.
#pragma once

#include <ggml.h>

#include <stdexcept>
#include <string>

namespace apex::guard {

// A failed assertion in upstream code; the message is upstream's, without the source's folder.
class UpstreamError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// The text with every byte that is not printable ASCII replaced: upstream's messages quote the
// file.
std::string printable(std::string text);

// Registers the callbacks with ggml; called once, when the extension is loaded.
void install();

// Where ggml and libllama send their log (a ggml_log_callback).
void collect_log(ggml_log_level level, const char * text, void * user_data);

// Scopes nest; the innermost one collects the messages. Never crosses threads.
class Scope {
  public:
    Scope();
    ~Scope();
    Scope(const Scope &) = delete;
    Scope & operator=(const Scope &) = delete;

    // The errors that upstream logged on this thread so far, one per line, trimmed, printable.
    std::string errors() const;

  private:
    friend void collect_log(ggml_log_level level, const char * text, void * user_data);
    Scope * outer_;
    std::string log_;
};

}  // namespace apex::guard
