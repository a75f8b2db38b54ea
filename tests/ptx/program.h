// A kernel's PTX, made ready to run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"

namespace ptx {

struct Instruction;
struct Thread;
using Operation = void (*)(const Instruction &, Thread &);

// All that instructions read has a place among a thread's registers, constants as well: an
// operation need not know what kind of operand it was given.
using Register = uint32_t;

// The first registers of every thread.
enum : Register { kThread, kThreads, kBlock, kTrue, kFirstFree };

struct Instruction {
    Operation operation = nullptr;
    std::array<Register, 5> operands{};  // as written, the lists in braces taken apart
    int64_t offset = 0;                  // of an address
    size_t destination = 0;              // of a branch
    Register guard = kTrue;
    bool if_guard_is = true;
};

struct Kernel {
    std::string name;
    std::vector<Instruction> code;
    std::vector<std::string> text;    // of each instruction
    std::vector<uint64_t> registers;  // what a thread begins with
    size_t parameter_bytes = 0;
    size_t local_bytes = 0;
    uint32_t most_threads = 0;  // per block
};

// What one PTX file holds. Its tables lie in `memory`, which has to live as long.
struct Module {
    std::map<std::string, Kernel> kernels;
    std::vector<std::unique_ptr<Buffer>> tables;
};

// Throws Error where the text has anything in it that is not known here.
Module parse(const std::string & text, GlobalMemory & memory);

// The operation of an instruction and its operands, each a letter: "add.s32 rrr". A register or
// constant is r, a list of them its length, an address m, a label l. Null where there is none.
Operation find_operation(const std::string & signature);

}  // namespace ptx
