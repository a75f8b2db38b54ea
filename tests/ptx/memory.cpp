#include "memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

namespace ptx {

namespace {

constexpr size_t kAlignment = 256;
constexpr unsigned char kUnwritten = 0xa5;

std::string hexadecimal(uint64_t value) {
    char text[20];
    std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

uint64_t number(const void * address) {
    return reinterpret_cast<uintptr_t>(address);
}

}  // namespace

void GlobalMemory::add(const void * begin, size_t bytes, bool may_change) {
    regions_[number(begin)] = {number(begin) + bytes, may_change};
}

void GlobalMemory::remove(const void * begin) {
    regions_.erase(number(begin));
}

void GlobalMemory::check(uint64_t address, size_t bytes, bool changes) const {
    auto after = regions_.upper_bound(address);
    if (after == regions_.begin() || address + bytes > (--after)->second.end) {
        throw Error("nothing of global memory lies at " + hexadecimal(address));
    }
    if (changes && !after->second.may_change) {
        throw Error("what lies at " + hexadecimal(address) + " must not change");
    }
}

Buffer::Buffer(GlobalMemory & memory, const void * data, size_t bytes, Use use)
    : memory_(memory),
      data_(std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment)),
      bytes_(bytes) {
    if (data_ == nullptr) {
        throw std::bad_alloc();
    }
    if (data != nullptr) {
        std::memcpy(data_, data, bytes);
    } else {
        std::memset(data_, kUnwritten, bytes);
    }
    memory_.add(data_, bytes, use == Use::variable);
}

Buffer::~Buffer() {
    memory_.remove(data_);
    std::free(data_);
}

unsigned char * PrivateMemory::at(uint64_t address, size_t bytes) {
    if (address > bytes_.size() || bytes > bytes_.size() - address) {
        throw Error("byte " + std::to_string(address) + " of " + std::to_string(bytes_.size()));
    }
    return bytes_.data() + address;
}

SharedMemory::SharedMemory(size_t bytes, Hazards & hazards)
    : bytes_(bytes, kUnwritten), touches_(bytes), hazards_(hazards) {}

const unsigned char * SharedMemory::read(uint64_t address, size_t bytes, uint32_t thread) {
    return touch(address, bytes, thread, &Touch::reader, {&Touch::writer, &Touch::updater});
}

unsigned char * SharedMemory::write(uint64_t address, size_t bytes, uint32_t thread) {
    return touch(address, bytes, thread, &Touch::writer,
                 {&Touch::reader, &Touch::writer, &Touch::updater});
}

unsigned char * SharedMemory::update(uint64_t address, size_t bytes, uint32_t thread) {
    return touch(address, bytes, thread, &Touch::updater, {&Touch::reader, &Touch::writer});
}

unsigned char * SharedMemory::touch(uint64_t address, size_t bytes, uint32_t thread, Toucher as,
                                    std::initializer_list<Toucher> hindered_by) {
    check_range(address, bytes);
    const auto self = static_cast<int32_t>(thread);
    const auto is_other = [&](int32_t toucher) { return toucher != kNobody && toucher != self; };
    for (uint64_t at = address; at < address + bytes; ++at) {
        Touch & here = touches_[at];
        if (std::any_of(hindered_by.begin(), hindered_by.end(),
                        [&](Toucher other) { return is_other(here.*other); })) {
            note_hazard(at, thread);
        }
        here.*as = is_other(here.*as) ? kSeveral : self;
    }
    return bytes_.data() + address;
}

void SharedMemory::forget_touches() {
    touches_.assign(touches_.size(), Touch());
}

void SharedMemory::check_range(uint64_t address, size_t bytes) const {
    if (address > bytes_.size() || bytes > bytes_.size() - address) {
        throw Error("byte " + std::to_string(address) + " of the block's " +
                    std::to_string(bytes_.size()));
    }
}

void SharedMemory::note_hazard(uint64_t address, uint32_t thread) {
    if (hazards_.count++ == 0) {
        hazards_.first = "thread " + std::to_string(thread) + " meets another one at byte " +
                         std::to_string(address) + " of shared memory";
    }
}

}  // namespace ptx
