// What each instruction does, as the PTX manual says it.
//
// The table has every instruction that is known with all its modifiers, and with its operands: what
// rounds otherwise, flushes subnormal numbers or fuses is not in it, and so is an error.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <unordered_map>

#include "machine.h"

namespace ptx {

namespace {

using Table = std::unordered_map<std::string, Operation>;

constexpr uint32_t kCanonicalNan = 0x7fffffff;  // of all arithmetic, whatever NaN went in
constexpr uint64_t kMostBranches = 100'000'000;

// ---- Registers

template <typename T>
T read(const Thread & thread, Register place) {
    T value;
    std::memcpy(&value, &thread.registers[place], sizeof(value));
    return value;
}

// A signed number is extended by its sign: the register may be wider than the instruction's type.
template <typename T>
void write(Thread & thread, Register place, T value) {
    static_assert(std::is_integral_v<T>);
    thread.registers[place] = static_cast<uint64_t>(value);
}

void write(Thread & thread, Register place, float value) {
    uint32_t bits = kCanonicalNan;
    if (!std::isnan(value)) {
        std::memcpy(&bits, &value, sizeof(bits));
    }
    thread.registers[place] = bits;
}

constexpr uint64_t lowest_bits(int count) {
    return count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// ---- Operations on bits: the lowest bits of a result depend on the lowest bits of what is given,
// so that numbers with sign and without are alike.

using Bits1 = uint64_t (*)(uint64_t);
using Bits2 = uint64_t (*)(uint64_t, uint64_t);
using Bits3 = uint64_t (*)(uint64_t, uint64_t, uint64_t);

template <int width, Bits1 function>
void on_bits(const Instruction & of, Thread & thread) {
    thread.registers[of.operands[0]] =
        function(thread.registers[of.operands[1]]) & lowest_bits(width);
}

template <int width, Bits2 function>
void on_bits(const Instruction & of, Thread & thread) {
    thread.registers[of.operands[0]] =
        function(thread.registers[of.operands[1]], thread.registers[of.operands[2]]) &
        lowest_bits(width);
}

template <int width, Bits3 function>
void on_bits(const Instruction & of, Thread & thread) {
    thread.registers[of.operands[0]] =
        function(thread.registers[of.operands[1]], thread.registers[of.operands[2]],
                 thread.registers[of.operands[3]]) &
        lowest_bits(width);
}

uint64_t copy(uint64_t a) {
    return a;
}
uint64_t complement(uint64_t a) {
    return ~a;
}
uint64_t negative(uint64_t a) {
    return 0 - a;
}
uint64_t both(uint64_t a, uint64_t b) {
    return a & b;
}
uint64_t either(uint64_t a, uint64_t b) {
    return a | b;
}
uint64_t one_alone(uint64_t a, uint64_t b) {
    return a ^ b;
}
uint64_t sum(uint64_t a, uint64_t b) {
    return a + b;
}
uint64_t difference(uint64_t a, uint64_t b) {
    return a - b;
}
uint64_t product(uint64_t a, uint64_t b) {
    return a * b;
}
uint64_t product_and_sum(uint64_t a, uint64_t b, uint64_t c) {
    return a * b + c;
}
uint64_t selected(uint64_t a, uint64_t b, uint64_t predicate) {
    return (predicate & 1) != 0 ? a : b;
}

// PTX leaves open what becomes of a NaN's sign.
uint64_t other_sign(uint64_t a) {
    return a ^ 0x80000000;
}
uint64_t without_sign(uint64_t a) {
    return a & 0x7fffffff;
}

// Each of four digits of four bits names one of eight bytes, or the sign of it.
uint64_t chosen_bytes(uint64_t a, uint64_t b, uint64_t digits) {
    const uint64_t bytes = (a & 0xffffffff) | b << 32;
    uint64_t result = 0;
    for (int i = 0; i < 4; ++i) {
        const uint64_t digit = digits >> (4 * i) & 15;
        const uint64_t byte = bytes >> (8 * (digit & 7)) & 255;
        const uint64_t sign = byte >= 128 ? 255 : 0;
        result |= (digit >= 8 ? sign : byte) << (8 * i);
    }
    return result;
}

// bfi: `length` bits of the first go into the second.
void insert_bits(const Instruction & of, Thread & thread) {
    const auto given = read<uint32_t>(thread, of.operands[1]);
    const auto into = read<uint32_t>(thread, of.operands[2]);
    const uint32_t position = read<uint32_t>(thread, of.operands[3]) & 255;
    const uint32_t length = read<uint32_t>(thread, of.operands[4]) & 255;
    if (position >= 32) {
        return write(thread, of.operands[0], into);
    }
    const auto mask = static_cast<uint32_t>(lowest_bits(static_cast<int>(std::min(length, 32u))))
                      << position;
    write(thread, of.operands[0], (into & ~mask) | (given << position & mask));
}

// By more than the width, as far as the width.
template <typename T>
void shift_left(const Instruction & of, Thread & thread) {
    constexpr uint32_t width = 8 * sizeof(T);
    const auto amount = read<uint32_t>(thread, of.operands[2]);
    const uint64_t value = read<T>(thread, of.operands[1]);
    write(thread, of.operands[0], static_cast<T>(amount < width ? value << amount : 0));
}

template <typename T>
void shift_right(const Instruction & of, Thread & thread) {
    constexpr uint32_t width = 8 * sizeof(T);
    const auto amount = read<uint32_t>(thread, of.operands[2]);
    const T value = read<T>(thread, of.operands[1]);
    const T far = value < 0 ? -1 : 0;
    write(thread, of.operands[0], static_cast<T>(amount < width ? value >> amount : far));
}

// mov between a register and a list of its parts
template <typename Part, int count>
void take_apart(const Instruction & of, Thread & thread) {
    const uint64_t whole = thread.registers[of.operands[count]];
    for (size_t i = 0; i < count; ++i) {
        write(thread, of.operands[i], static_cast<Part>(whole >> (8 * sizeof(Part) * i)));
    }
}

template <typename Part, int count>
void put_together(const Instruction & of, Thread & thread) {
    uint64_t whole = 0;
    for (size_t i = 0; i < count; ++i) {
        whole |= static_cast<uint64_t>(read<Part>(thread, of.operands[1 + i]))
                 << (8 * sizeof(Part) * i);
    }
    write(thread, of.operands[0], whole);
}

// ---- Operations on numbers

template <typename T, T (*function)(T)>
void on_number(const Instruction & of, Thread & thread) {
    write(thread, of.operands[0], function(read<T>(thread, of.operands[1])));
}

template <typename T, T (*function)(T, T)>
void on_numbers(const Instruction & of, Thread & thread) {
    write(thread, of.operands[0],
          function(read<T>(thread, of.operands[1]), read<T>(thread, of.operands[2])));
}

template <typename T>
T smaller(T a, T b) {
    return a < b ? a : b;
}

template <typename T>
T larger(T a, T b) {
    return a > b ? a : b;
}

// Of a number and a NaN the number; -0 is smaller than 0.
template <>
float smaller(float a, float b) {
    if (std::isnan(a) || std::isnan(b)) {
        return std::isnan(a) ? b : a;
    }
    return a < b || (a == b && std::signbit(a)) ? a : b;
}

template <>
float larger(float a, float b) {
    if (std::isnan(a) || std::isnan(b)) {
        return std::isnan(a) ? b : a;
    }
    return a > b || (a == b && !std::signbit(a)) ? a : b;
}

template <typename T>
void check_divisor(T a, T b) {
    if (b == 0 ||
        (std::is_signed_v<T> && a == std::numeric_limits<T>::min() && b == static_cast<T>(-1))) {
        throw Error("a quotient that does not exist");
    }
}

template <typename T>
T quotient(T a, T b) {
    check_divisor(a, b);
    return static_cast<T>(a / b);
}

template <typename T>
T remainder(T a, T b) {
    check_divisor(a, b);
    return static_cast<T>(a % b);
}

template <typename T, typename Wide>
void wide_product(const Instruction & of, Thread & thread) {
    write(thread, of.operands[0],
          static_cast<Wide>(static_cast<Wide>(read<T>(thread, of.operands[1])) *
                            static_cast<Wide>(read<T>(thread, of.operands[2]))));
}

template <typename T, typename Wide>
void upper_product(const Instruction & of, Thread & thread) {
    const auto wide = static_cast<Wide>(read<T>(thread, of.operands[1])) *
                      static_cast<Wide>(read<T>(thread, of.operands[2]));
    write(thread, of.operands[0], static_cast<T>(wide >> (8 * sizeof(T))));
}

float sum(float a, float b) {
    return a + b;
}
float difference(float a, float b) {
    return a - b;
}
float product(float a, float b) {
    return a * b;
}
float quotient_of_floats(float a, float b) {
    return a / b;
}
float reciprocal(float a) {
    return 1.f / a;
}
float root(float a) {
    return std::sqrt(a);
}

// ---- Comparisons

template <typename T, bool (*holds)(T, T)>
void compare(const Instruction & of, Thread & thread) {
    write(thread, of.operands[0],
          uint64_t{holds(read<T>(thread, of.operands[1]), read<T>(thread, of.operands[2]))});
}

template <typename T>
bool is_equal(T a, T b) {
    return a == b;
}
template <typename T>
bool is_other(T a, T b) {
    return a < b || a > b;
}
template <typename T>
bool is_less(T a, T b) {
    return a < b;
}
template <typename T>
bool is_at_most(T a, T b) {
    return a <= b;
}
template <typename T>
bool is_greater(T a, T b) {
    return a > b;
}
template <typename T>
bool is_at_least(T a, T b) {
    return a >= b;
}

bool one_is_nan(float a, float b) {
    return std::isnan(a) || std::isnan(b);
}
bool both_are_numbers(float a, float b) {
    return !one_is_nan(a, b);
}
template <bool (*holds)(float, float)>
bool holds_or_nan(float a, float b) {
    return one_is_nan(a, b) || holds(a, b);
}

// ---- Conversions

template <typename To, typename From>
void convert(const Instruction & of, Thread & thread) {
    write(thread, of.operands[0], static_cast<To>(read<From>(thread, of.operands[1])));
}

// Towards zero; what does not fit becomes the nearest that does, and NaN zero.
void float_to_int(const Instruction & of, Thread & thread) {
    const auto value = read<float>(thread, of.operands[1]);
    int32_t result = 0;
    if (value >= 0x1p31f) {
        result = INT32_MAX;
    } else if (value < -0x1p31f) {
        result = INT32_MIN;
    } else if (!std::isnan(value)) {
        result = static_cast<int32_t>(value);
    }
    write(thread, of.operands[0], result);
}

// ---- Memory

enum class Space { parameters, local, shared, global };

template <Space space>
const unsigned char * readable(Thread & thread, uint64_t address, size_t bytes) {
    if constexpr (space == Space::parameters) {
        return thread.parameters.at(address, bytes);
    } else if constexpr (space == Space::local) {
        return thread.local.at(address, bytes);
    } else if constexpr (space == Space::shared) {
        return thread.shared->read(address, bytes, thread.index);
    } else {
        thread.global->check(address, bytes, false);
        return reinterpret_cast<const unsigned char *>(address);
    }
}

template <Space space>
unsigned char * writable(Thread & thread, uint64_t address, size_t bytes) {
    if constexpr (space == Space::local) {
        return thread.local.at(address, bytes);
    } else if constexpr (space == Space::shared) {
        return thread.shared->write(address, bytes, thread.index);
    } else {
        thread.global->check(address, bytes, true);
        return reinterpret_cast<unsigned char *>(address);
    }
}

// Shared memory has addresses of 32 bits.
template <Space space>
uint64_t address_of(const Instruction & of, const Thread & thread, Register base, size_t bytes) {
    uint64_t address = thread.registers[base] + static_cast<uint64_t>(of.offset);
    if constexpr (space == Space::shared) {
        address &= lowest_bits(32);
    }
    if (address % bytes != 0) {
        throw Error("the address is not a multiple of " + std::to_string(bytes));
    }
    return address;
}

template <Space space, typename T, int count>
void load(const Instruction & of, Thread & thread) {
    T values[count];
    const uint64_t address = address_of<space>(of, thread, of.operands[count], sizeof(values));
    std::memcpy(values, readable<space>(thread, address, sizeof(values)), sizeof(values));
    for (size_t i = 0; i < count; ++i) {
        write(thread, of.operands[i], values[i]);
    }
}

template <Space space, typename T, int count>
void store(const Instruction & of, Thread & thread) {
    T values[count];
    for (size_t i = 0; i < count; ++i) {
        values[i] = read<T>(thread, of.operands[1 + i]);
    }
    const uint64_t address = address_of<space>(of, thread, of.operands[0], sizeof(values));
    std::memcpy(writable<space>(thread, address, sizeof(values)), values, sizeof(values));
}

// Adds to what lies there, and gives what was there before.
void add_to_shared(const Instruction & of, Thread & thread) {
    uint32_t before;
    const uint64_t address = address_of<Space::shared>(of, thread, of.operands[1], sizeof(before));
    unsigned char * place = thread.shared->update(address, sizeof(before), thread.index);
    std::memcpy(&before, place, sizeof(before));
    const uint32_t after = before + read<uint32_t>(thread, of.operands[2]);
    std::memcpy(place, &after, sizeof(after));
    write(thread, of.operands[0], before);
}

// ---- The course of a thread

void branch(const Instruction & of, Thread & thread) {
    thread.next = of.destination;
    if (++thread.branches > kMostBranches) {
        throw Error("the kernel does not come to an end");
    }
}

void wait(const Instruction & of, Thread & thread) {
    if (thread.registers[of.operands[0]] != 0) {
        throw Error("only barrier 0 is known");
    }
    thread.state = State::at_barrier;
}

void finish(const Instruction &, Thread & thread) {
    thread.state = State::finished;
}

// ---- The table

template <typename T>
std::string type_name() {
    static_assert(std::is_integral_v<T>);
    return (std::is_signed_v<T> ? "s" : "u") + std::to_string(8 * sizeof(T));
}

template <typename T>
void add_bits(Table & table) {
    constexpr int width = 8 * sizeof(T);
    const std::string type = ".b" + std::to_string(width);
    table["and" + type + " rrr"] = on_bits<width, both>;
    table["or" + type + " rrr"] = on_bits<width, either>;
    table["xor" + type + " rrr"] = on_bits<width, one_alone>;
    table["not" + type + " rr"] = on_bits<width, complement>;
    table["shl" + type + " rrr"] = shift_left<T>;
    table["setp.eq" + type + " rrr"] = compare<T, is_equal<T>>;
    table["setp.ne" + type + " rrr"] = compare<T, is_other<T>>;
}

void add_predicates(Table & table) {
    table["and.pred rrr"] = on_bits<1, both>;
    table["or.pred rrr"] = on_bits<1, either>;
    table["xor.pred rrr"] = on_bits<1, one_alone>;
    table["not.pred rr"] = on_bits<1, complement>;
    table["mov.pred rr"] = on_bits<1, copy>;
}

template <int width>
void add_copies(Table & table, const std::string & type) {
    table["mov." + type + " rr"] = on_bits<width, copy>;
    table["selp." + type + " rrrr"] = on_bits<width, selected>;
}

template <typename T>
void add_comparisons(Table & table, const std::string & type) {
    table["setp.eq." + type + " rrr"] = compare<T, is_equal<T>>;
    table["setp.ne." + type + " rrr"] = compare<T, is_other<T>>;
    table["setp.lt." + type + " rrr"] = compare<T, is_less<T>>;
    table["setp.le." + type + " rrr"] = compare<T, is_at_most<T>>;
    table["setp.gt." + type + " rrr"] = compare<T, is_greater<T>>;
    table["setp.ge." + type + " rrr"] = compare<T, is_at_least<T>>;
}

template <typename T>
void add_integers(Table & table) {
    constexpr int width = 8 * sizeof(T);
    const std::string type = type_name<T>();
    add_copies<width>(table, type);
    add_comparisons<T>(table, type);
    table["add." + type + " rrr"] = on_bits<width, sum>;
    table["sub." + type + " rrr"] = on_bits<width, difference>;
    table["mul.lo." + type + " rrr"] = on_bits<width, product>;
    table["mad.lo." + type + " rrrr"] = on_bits<width, product_and_sum>;
    table["div." + type + " rrr"] = on_numbers<T, quotient<T>>;
    table["rem." + type + " rrr"] = on_numbers<T, remainder<T>>;
    table["min." + type + " rrr"] = on_numbers<T, smaller<T>>;
    table["max." + type + " rrr"] = on_numbers<T, larger<T>>;
    table["shr." + type + " rrr"] = shift_right<T>;
    if (std::is_signed_v<T>) {
        table["neg." + type + " rr"] = on_bits<width, negative>;
    }
}

template <typename T, typename Wide>
void add_wide_products(Table & table) {
    table["mul.wide." + type_name<T>() + " rrr"] = wide_product<T, Wide>;
    table["mul.hi." + type_name<T>() + " rrr"] = upper_product<T, Wide>;
}

void add_floats(Table & table) {
    add_copies<32>(table, "f32");
    add_comparisons<float>(table, "f32");
    table["setp.equ.f32 rrr"] = compare<float, holds_or_nan<is_equal<float>>>;
    table["setp.neu.f32 rrr"] = compare<float, holds_or_nan<is_other<float>>>;
    table["setp.ltu.f32 rrr"] = compare<float, holds_or_nan<is_less<float>>>;
    table["setp.leu.f32 rrr"] = compare<float, holds_or_nan<is_at_most<float>>>;
    table["setp.gtu.f32 rrr"] = compare<float, holds_or_nan<is_greater<float>>>;
    table["setp.geu.f32 rrr"] = compare<float, holds_or_nan<is_at_least<float>>>;
    table["setp.nan.f32 rrr"] = compare<float, one_is_nan>;
    table["setp.num.f32 rrr"] = compare<float, both_are_numbers>;
    table["add.rn.f32 rrr"] = on_numbers<float, sum>;
    table["sub.rn.f32 rrr"] = on_numbers<float, difference>;
    table["mul.rn.f32 rrr"] = on_numbers<float, product>;
    table["div.rn.f32 rrr"] = on_numbers<float, quotient_of_floats>;
    table["rcp.rn.f32 rr"] = on_number<float, reciprocal>;
    table["sqrt.rn.f32 rr"] = on_number<float, root>;
    table["min.f32 rrr"] = on_numbers<float, smaller<float>>;
    table["max.f32 rrr"] = on_numbers<float, larger<float>>;
    table["neg.f32 rr"] = on_bits<32, other_sign>;
    table["abs.f32 rr"] = on_bits<32, without_sign>;
    table["cvt.rzi.s32.f32 rr"] = float_to_int;
}

template <typename From, typename... To>
void add_conversions_from(Table & table) {
    ((table["cvt." + type_name<To>() + "." + type_name<From>() + " rr"] = convert<To, From>), ...);
    table["cvt.rn.f32." + type_name<From>() + " rr"] = convert<float, From>;
}

template <typename... Types>
void add_conversions(Table & table) {
    (add_conversions_from<Types, Types...>(table), ...);
}

template <typename T, int count>
void add_accesses(Table & table, const std::string & type) {
    const std::string kind = (count == 1 ? "" : ".v" + std::to_string(count)) + "." + type;
    const std::string values = count == 1 ? "r" : std::to_string(count);
    table["ld.param" + kind + " " + values + "m"] = load<Space::parameters, T, count>;
    table["ld.local" + kind + " " + values + "m"] = load<Space::local, T, count>;
    table["ld.shared" + kind + " " + values + "m"] = load<Space::shared, T, count>;
    table["ld.global" + kind + " " + values + "m"] = load<Space::global, T, count>;
    table["ld.global.nc" + kind + " " + values + "m"] = load<Space::global, T, count>;
    table["st.local" + kind + " m" + values] = store<Space::local, T, count>;
    table["st.shared" + kind + " m" + values] = store<Space::shared, T, count>;
    table["st.global" + kind + " m" + values] = store<Space::global, T, count>;
}

template <typename T>
void add_memory(Table & table, const std::string & type) {
    add_accesses<T, 1>(table, type);
    add_accesses<T, 2>(table, type);
    if constexpr (sizeof(T) <= 4) {
        add_accesses<T, 4>(table, type);
    }
}

// Whose loads extend them, by their sign or not.
template <typename Signed, typename Unsigned>
void add_memory(Table & table) {
    add_memory<Signed>(table, type_name<Signed>());
    add_memory<Unsigned>(table, type_name<Unsigned>());
    add_memory<Unsigned>(table, "b" + std::to_string(8 * sizeof(Unsigned)));
}

Table make_table() {
    Table table;
    add_predicates(table);
    add_bits<uint16_t>(table);
    add_bits<uint32_t>(table);
    add_bits<uint64_t>(table);
    add_copies<16>(table, "b16");
    add_copies<32>(table, "b32");
    add_copies<64>(table, "b64");
    add_integers<int16_t>(table);
    add_integers<uint16_t>(table);
    add_integers<int32_t>(table);
    add_integers<uint32_t>(table);
    add_integers<int64_t>(table);
    add_integers<uint64_t>(table);
    add_wide_products<int16_t, int32_t>(table);
    add_wide_products<uint16_t, uint32_t>(table);
    add_wide_products<int32_t, int64_t>(table);
    add_wide_products<uint32_t, uint64_t>(table);
    add_floats(table);
    add_conversions<int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t>(
        table);
    add_memory<int8_t, uint8_t>(table);
    add_memory<int16_t, uint16_t>(table);
    add_memory<int32_t, uint32_t>(table);
    add_memory<int64_t, uint64_t>(table);
    add_memory<uint32_t>(table, "f32");
    table["atom.shared.add.u32 rmr"] = add_to_shared;
    table["mov.b32 2r"] = take_apart<uint16_t, 2>;
    table["mov.b32 r2"] = put_together<uint16_t, 2>;
    table["mov.b64 2r"] = take_apart<uint32_t, 2>;
    table["mov.b64 r2"] = put_together<uint32_t, 2>;
    table["prmt.b32 rrrr"] = on_bits<32, chosen_bytes>;
    table["bfi.b32 rrrrr"] = insert_bits;
    table["cvta.to.global.u64 rr"] = on_bits<64, copy>;
    table["bra l"] = table["bra.uni l"] = branch;
    table["bar.sync r"] = wait;
    table["ret "] = finish;
    return table;
}

}  // namespace

Operation find_operation(const std::string & signature) {
    static const Table table = make_table();
    const auto found = table.find(signature);
    return found == table.end() ? nullptr : found->second;
}

}  // namespace ptx
