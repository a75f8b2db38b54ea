#include "patterns.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <regex>
#include <stdexcept>

namespace apex::llama {

namespace {

// The standard library parses a pattern by recursion: a far longer one would overflow the stack.
constexpr size_t MAX_LENGTH = 2000;
// Of one search. A sensible pattern takes some thousand; nested lookaheads have no bound.
constexpr int64_t MAX_STEPS = int64_t{1} << 22;
constexpr int64_t STEPS_BETWEEN_CHECKS = 1 << 12;

[[noreturn]] void refuse(const std::string & pattern, const std::string & why) {
    constexpr size_t shown = 100;
    const bool is_long = pattern.size() > shown;
    throw std::invalid_argument("'" + pattern.substr(0, shown) + (is_long ? "…" : "") + "' " + why);
}

// Counts how often a search looks at a character, which is how it can be ended from inside.
struct Watch {
    const std::function<void()> & check;
    const std::string & pattern;
    int64_t steps = 0;

    void step() {
        if (++steps % STEPS_BETWEEN_CHECKS == 0) {
            check();
            if (steps >= MAX_STEPS) {
                refuse(pattern, "takes too long to match");
            }
        }
    }
};

class Watched {
  public:
    using iterator_category = std::bidirectional_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char *;
    using reference = const char &;

    Watched() = default;
    Watched(const char * at, Watch * watch) : at_(at), watch_(watch) {}

    reference operator*() const {
        watch_->step();
        return *at_;
    }
    Watched & operator++() {
        ++at_;
        return *this;
    }
    Watched operator++(int) { return {at_++, watch_}; }
    Watched & operator--() {
        --at_;
        return *this;
    }
    Watched operator--(int) { return {at_--, watch_}; }
    bool operator==(const Watched & other) const { return at_ == other.at_; }
    bool operator!=(const Watched & other) const { return at_ != other.at_; }

  private:
    const char * at_ = nullptr;
    Watch * watch_ = nullptr;
};

// A pattern of plain characters, '.', escaped punctuation, '^' at the start and '$' at the end.
// Nearly all rules of a file are of this kind, and std::regex takes a hundred times as long.
class Plain {
  public:
    static std::optional<Plain> parse(const std::string & pattern) {
        Plain plain;
        size_t i = 0;
        size_t end = pattern.size();
        if (i < end && pattern[i] == '^') {
            plain.at_start_ = true;
            ++i;
        }
        for (; i < end; ++i) {
            const char c = pattern[i];
            if (c == '$' && i + 1 == end) {
                plain.at_end_ = true;
            } else if (c == '.') {
                plain.characters_.push_back(ANY);
            } else if (c == '\\' && i + 1 < end &&
                       std::ispunct(static_cast<unsigned char>(pattern[i + 1])) != 0) {
                plain.characters_.push_back(pattern[++i]);
            } else if (std::string("^$\\*+?()[]{}|").find(c) != std::string::npos ||
                       std::iscntrl(static_cast<unsigned char>(c)) != 0) {
                return std::nullopt;
            } else {
                plain.characters_.push_back(c);
            }
        }
        return plain;
    }

    bool is_in(const std::string & name) const {
        if (name.size() < characters_.size()) {
            return false;
        }
        const size_t last = name.size() - characters_.size();
        for (size_t start = at_end_ ? last : 0; start <= (at_start_ ? 0 : last); ++start) {
            if (std::equal(characters_.begin(), characters_.end(),
                           name.begin() + static_cast<std::ptrdiff_t>(start),
                           [](int wanted, char c) {
                               return wanted == ANY ? c != '\n' && c != '\r' : wanted == c;
                           })) {
                return true;
            }
        }
        return false;
    }

  private:
    static constexpr int ANY = 256;  // any character but the end of a line
    std::vector<int> characters_;
    bool at_start_ = false, at_end_ = false;
};

class Pattern {
  public:
    explicit Pattern(const std::string & text) : text_(text), plain_(Plain::parse(text)) {
        if (text.size() > MAX_LENGTH) {
            refuse(text, "is too long: a pattern has at most " + std::to_string(MAX_LENGTH) +
                             " characters");
        }
        if (plain_) {
            return;
        }
        try {
            regex_ = compile(text);
        } catch (const std::regex_error & error) {
            refuse(text, std::string("is not a regular expression: ") + error.what());
        }
    }

    bool is_in(const std::string & name, const std::function<void()> & check) const {
        if (plain_) {
            return plain_->is_in(name);
        }
        Watch watch{check, text_};
        const char * begin = name.data();
        try {
            return std::regex_search(Watched(begin, &watch), Watched(begin + name.size(), &watch),
                                     regex_);
        } catch (const std::regex_error &) {  // other standard libraries have bounds of their own
            refuse(text_, "takes too long to match");
        }
    }

  private:
    static std::regex compile(const std::string & text) {
#ifdef __GLIBCXX__
        try {  // follows all ways at once, where the default takes them one after the other
            return std::regex(text, std::regex::ECMAScript | std::regex_constants::__polynomial);
        } catch (const std::regex_error & error) {
            if (error.code() != std::regex_constants::error_complexity) {
                throw;
            }
            // Only the default knows back-references; the watch bounds it.
        }
#endif
        return std::regex(text);
    }

    std::string text_;
    std::optional<Plain> plain_;
    std::regex regex_;
};

}  // namespace

std::vector<int> first_match(const std::vector<std::string> & patterns,
                             const std::vector<std::string> & names,
                             const std::function<void()> & check) {
    const std::vector<Pattern> compiled(patterns.begin(), patterns.end());
    std::vector<int> result(names.size(), -1);
    for (size_t i = 0; i < names.size(); ++i) {
        check();
        const auto found =
            std::find_if(compiled.begin(), compiled.end(),
                         [&](const Pattern & pattern) { return pattern.is_in(names[i], check); });
        if (found != compiled.end()) {
            result[i] = static_cast<int>(found - compiled.begin());
        }
    }
    return result;
}

}  // namespace apex::llama
