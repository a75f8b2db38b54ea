// PTX as nvcc writes it: a line for every directive, label and instruction.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>
#include <sstream>

#include "program.h"

namespace ptx {

namespace {

constexpr uint64_t kUndefined = 0xdeadbeefdeadbeef;  // what is in registers before they are set

bool begins_with(const std::string & text, const char * start) {
    return text.rfind(start, 0) == 0;
}

std::string trimmed(const std::string & text) {
    const char * const blanks = " \t\r";
    const size_t begin = text.find_first_not_of(blanks);
    return begin == std::string::npos
               ? ""
               : text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

// The parts between commas that are not inside brackets.
std::vector<std::string> split(const std::string & text) {
    std::vector<std::string> parts(1);
    int depth = 0;
    for (const char c : text) {
        depth += c == '{' || c == '[' ? 1 : 0;
        depth -= c == '}' || c == ']' ? 1 : 0;
        if (c == ',' && depth == 0) {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    for (std::string & part : parts) {
        part = trimmed(part);
    }
    return parts.size() == 1 && parts[0].empty() ? std::vector<std::string>() : parts;
}

std::string inside(const std::string & text) {
    return trimmed(text.substr(1, text.size() - 2));
}

// A whole number, or the bits of a float as in 0f3F800000.
std::optional<uint64_t> constant(const std::string & text) {
    if (begins_with(text, "0f") || begins_with(text, "0F")) {
        return std::stoull(text.substr(2), nullptr, 16);
    }
    const size_t digit = text[0] == '-' ? 1 : 0;
    if (digit == text.size() || std::isdigit(static_cast<unsigned char>(text[digit])) == 0) {
        return std::nullopt;
    }
    size_t used = 0;
    const uint64_t magnitude = std::stoull(text.substr(digit), &used, 0);
    if (digit + used != text.size()) {
        throw Error("not a number: " + text);
    }
    return digit == 1 ? 0 - magnitude : magnitude;
}

// "… .b8 name[24]": a number of bytes and what they are called.
struct Declaration {
    explicit Declaration(const std::string & text) {
        const size_t bracket = text.find('[');
        const std::string head = text.substr(0, bracket);
        if (bracket == std::string::npos || head.find(" .b8 ") == std::string::npos) {
            throw Error("not an array of bytes: " + text);
        }
        name = head.substr(head.find_last_of(" \t") + 1);
        bytes = std::strtoull(text.c_str() + bracket + 1, nullptr, 10);
    }

    std::string name;
    size_t bytes;
};

class KernelParser {
  public:
    KernelParser(Kernel & kernel, std::map<std::string, uint64_t> symbols)
        : kernel_(kernel), symbols_(std::move(symbols)) {
        kernel_.registers.assign(kFirstFree, kUndefined);
        places_ = {{"%tid.x", kThread}, {"%ntid.x", kThreads}, {"%ctaid.x", kBlock}};
    }

    // Between the name and the body.
    void header(const std::string & line) {
        if (begins_with(line, ".param")) {
            const Declaration parameter(line);
            symbols_[parameter.name] = kernel_.parameter_bytes;
            kernel_.parameter_bytes += parameter.bytes;
            if (kernel_.parameter_bytes != parameter.bytes) {
                throw Error("more than one parameter");  // whose alignment would matter
            }
        } else if (begins_with(line, ".maxntid")) {
            kernel_.most_threads =
                static_cast<uint32_t>(std::stoul(line.substr(std::strlen(".maxntid "))));
        } else if (line != ")" && !begins_with(line, ".minnctapersm")) {  // which is for ptxas
            throw Error("unknown line: " + line);
        }
    }

    void body(const std::string & line) {
        if (line[0] == '$' && line.back() == ':') {
            labels_[line.substr(0, line.size() - 1)] = kernel_.code.size();
        } else if (begins_with(line, ".local")) {
            const Declaration local(line);
            symbols_[local.name] = kernel_.local_bytes;
            kernel_.local_bytes += local.bytes;
            if (kernel_.local_bytes != local.bytes) {
                throw Error("more than one array in local memory");
            }
        } else if (begins_with(line, ".reg")) {
            declare_registers(line);
        } else if (line == ".pragma \"nounroll\";" ||
                   begins_with(line, ".pragma \"used_bytes_mask ")) {
            // advice for ptxas: of no effect on what is computed
        } else if (line[0] != '.' && line.back() == ';') {
            instruction(line.substr(0, line.size() - 1));
        } else {
            throw Error("unknown line: " + line);
        }
    }

    void finish() {
        for (const auto & [index, label] : branches_) {
            const auto found = labels_.find(label);
            if (found == labels_.end() || found->second == kernel_.code.size()) {
                throw Error("nothing follows the label " + label);
            }
            kernel_.code[index].destination = found->second;
        }
        if (kernel_.text.empty() || kernel_.text.back() != "ret") {
            throw Error(kernel_.name + " does not end with ret");
        }
    }

  private:
    // ".reg .b32 %r<8>;" or ".reg .b64 %SP;"
    void declare_registers(const std::string & line) {
        const std::string name = line.substr(line.find('%'));
        stems_.insert(name.substr(0, name.find_first_of("<;")));
    }

    void instruction(const std::string & line) {
        Instruction made;
        std::string rest = line;
        if (rest[0] == '@') {
            const size_t end = rest.find_first_of(" \t");
            made.if_guard_is = rest[1] != '!';
            const size_t begin = made.if_guard_is ? 1 : 2;
            made.guard = named(rest.substr(begin, end - begin));
            rest = trimmed(rest.substr(end));
        }
        const size_t end = std::min(rest.find_first_of(" \t"), rest.size());
        std::string signature = rest.substr(0, end) + " ";
        size_t count = 0;
        for (const std::string & part : split(rest.substr(end))) {
            signature += operand(part, made, count);
        }
        made.operation = find_operation(signature);
        if (made.operation == nullptr) {
            throw Error("unknown instruction: " + line);
        }
        kernel_.code.push_back(made);
        kernel_.text.push_back(line);
    }

    // Returns its letter in the signature.
    std::string operand(const std::string & text, Instruction & made, size_t & count) {
        if (text[0] == '$') {
            branches_.emplace_back(kernel_.code.size(), text);
            return "l";
        }
        if (text[0] == '[') {
            address(inside(text), made, count);
            return "m";
        }
        if (text[0] != '{') {
            take(value(text), made, count);
            return "r";
        }
        const std::vector<std::string> parts = split(inside(text));
        for (const std::string & part : parts) {
            take(value(part), made, count);
        }
        return std::to_string(parts.size());
    }

    void address(const std::string & text, Instruction & made, size_t & count) {
        const size_t plus = text.find('+');
        if (plus != std::string::npos) {
            const auto offset = constant(trimmed(text.substr(plus + 1)));
            if (!offset) {
                throw Error("unknown address: " + text);
            }
            made.offset = static_cast<int64_t>(*offset);
        }
        take(value(trimmed(text.substr(0, plus))), made, count);
    }

    static void take(Register place, Instruction & made, size_t & count) {
        if (count == made.operands.size()) {
            throw Error("more operands than any known instruction has");
        }
        made.operands[count++] = place;
    }

    Register value(const std::string & text) {
        if (text[0] == '%') {
            return named(text);
        }
        const auto symbol = symbols_.find(text);
        const auto number = symbol != symbols_.end() ? symbol->second : constant(text);
        if (!number) {
            throw Error("unknown operand: " + text);
        }
        const Register place = named(text);
        kernel_.registers[place] = *number;
        return place;
    }

    Register named(const std::string & name) {
        const std::string stem = name.substr(0, name.find_last_not_of("0123456789") + 1);
        if (name[0] == '%' && places_.count(name) == 0 && stems_.count(stem) == 0) {
            throw Error("unknown register: " + name);
        }
        const auto next = static_cast<Register>(kernel_.registers.size());
        const auto [found, is_new] = places_.try_emplace(name, next);
        if (is_new) {
            kernel_.registers.push_back(kUndefined);
        }
        return found->second;
    }

    Kernel & kernel_;
    std::map<std::string, uint64_t> symbols_;  // addresses in the memory that each belongs to
    std::set<std::string> stems_;              // of the registers' names
    std::map<std::string, Register> places_;   // of registers and constants
    std::map<std::string, size_t> labels_;
    std::vector<std::pair<size_t, std::string>> branches_;
};

class ModuleParser {
  public:
    ModuleParser(Module & module, GlobalMemory & memory) : module_(module), memory_(memory) {}

    void line(const std::string & line) {
        if (!kernel_) {
            outside(line);
        } else if (line == "{" && !is_in_body_) {
            is_in_body_ = true;
        } else if (line == "}" && is_in_body_) {
            kernel_->finish();
            kernel_.reset();
        } else if (is_in_body_) {
            kernel_->body(line);
        } else {
            kernel_->header(line);
        }
    }

  private:
    void outside(const std::string & line) {
        const size_t entry = line.find(".entry ");
        if (entry != std::string::npos && line.back() == '(') {
            begin_kernel(trimmed(line.substr(entry + std::strlen(".entry "))));
        } else if (begins_with(line, ".extern .shared")) {
            symbols_[Declaration(line).name] = 0;  // all that the launch grants begins there
        } else if (begins_with(line, ".global")) {
            add_table(line);
        } else if (!begins_with(line, ".version") && !begins_with(line, ".target") &&
                   !begins_with(line, ".address_size 64")) {
            throw Error("unknown line: " + line);
        }
    }

    void begin_kernel(const std::string & text) {
        const std::string name = text.substr(0, text.size() - 1);
        Kernel & kernel = module_.kernels[name];
        kernel.name = name;
        kernel_.emplace(kernel, symbols_);
        is_in_body_ = false;
    }

    void add_table(const std::string & line) {
        const Declaration declared(line);
        const size_t begin = line.find("= {");
        if (begin == std::string::npos || line.substr(line.size() - 2) != "};") {
            throw Error("not a table: " + line.substr(0, 100));
        }
        std::vector<unsigned char> bytes;
        for (const std::string & byte : split(line.substr(begin + 3, line.size() - begin - 5))) {
            bytes.push_back(static_cast<unsigned char>(constant(byte).value()));
        }
        if (bytes.size() != declared.bytes) {
            throw Error("bytes are missing: " + declared.name);
        }
        module_.tables.push_back(
            std::make_unique<Buffer>(memory_, bytes.data(), bytes.size(), Buffer::Use::constant));
        symbols_[declared.name] =
            reinterpret_cast<uintptr_t>(module_.tables.back()->as<unsigned char>());
    }

    Module & module_;
    GlobalMemory & memory_;
    std::map<std::string, uint64_t> symbols_;
    std::optional<KernelParser> kernel_;
    bool is_in_body_ = false;
};

}  // namespace

Module parse(const std::string & text, GlobalMemory & memory) {
    Module module;
    ModuleParser parser(module, memory);
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        line = trimmed(line.substr(0, line.find("//")));
        if (!line.empty()) {
            parser.line(line);
        }
    }
    return module;
}

}  // namespace ptx
