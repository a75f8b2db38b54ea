// All kernels for lanes of one width. Included by the files of csrc/isa, each with its own
// instruction set.
#pragma once

#include <ggml.h>

#include "compensation/compensate.h"
#include "compensation/factorize.h"
#include "formats/iq1.h"
#include "formats/iq2.h"
#include "formats/iq3.h"
#include "formats/iq4.h"
#include "formats/mxfp4.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"
#include "formats/q4_k_q5_k.h"
#include "formats/q4_q5.h"
#include "formats/q6_k.h"
#include "formats/q8_0.h"
#include "isa/blocks.h"
#include "isa/convert.h"
#include "isa/kernel_table.h"
#include "isa/products.h"

namespace apex {
namespace {

constexpr bool kNeedsImportance = true;

template <typename L, typename Format, bool needs_importance = false>
void add_format(KernelTable & table, ggml_type type) {
    if constexpr (!needs_importance) {
        table.quantize[type][false] = quantize_blocks<L, Format, false>;
    }
    table.quantize[type][true] = quantize_blocks<L, Format, true>;
}

// A format by the codec with which compensation takes its blocks apart.
template <typename L, typename Codec, bool needs_importance = false>
void add(KernelTable & table, ggml_type type) {
    add_format<L, typename Codec::Format, needs_importance>(table, type);
    table.compensate[type] = compensate_rows<L, Codec>;
}

template <int W>
constexpr const char * compiled_for() {
    if (W == 1) {
        return "scalar";
    }
#if defined(__AVX512F__)
    return "avx512";
#elif defined(__AVX2__)
    return "avx2";
#elif defined(__ARM_NEON)
    return "neon";
#else
    return "baseline";
#endif
}

template <int W>
KernelTable make_table() {
    using L = Lanes<W>;
    KernelTable table;
    table.isa = compiled_for<W>();
    add<L, CodecQ80>(table, GGML_TYPE_Q8_0);
    add<L, CodecCentered<8>>(table, GGML_TYPE_Q4_0);
    add<L, CodecCentered<16>>(table, GGML_TYPE_Q5_0);
    add<L, CodecShifted<15>>(table, GGML_TYPE_Q4_1);
    add<L, CodecShifted<31>>(table, GGML_TYPE_Q5_1);
    add_format<L, Mxfp4>(table, GGML_TYPE_MXFP4);
    add<L, CodecQ2K>(table, GGML_TYPE_Q2_K);
    add<L, CodecQ3K>(table, GGML_TYPE_Q3_K);
    add<L, CodecQ45K<15>>(table, GGML_TYPE_Q4_K);
    add<L, CodecQ45K<31>>(table, GGML_TYPE_Q5_K);
    add<L, CodecQ6K>(table, GGML_TYPE_Q6_K);
    add<L, CodecIq4<32>>(table, GGML_TYPE_IQ4_NL);
    add<L, CodecIq4<256>>(table, GGML_TYPE_IQ4_XS);
    add<L, CodecIq1S, kNeedsImportance>(table, GGML_TYPE_IQ1_S);
    add<L, CodecIq1M>(table, GGML_TYPE_IQ1_M);
    add<L, CodecIq2Xxs, kNeedsImportance>(table, GGML_TYPE_IQ2_XXS);
    add<L, CodecIq2Xs, kNeedsImportance>(table, GGML_TYPE_IQ2_XS);
    add<L, CodecIq2S>(table, GGML_TYPE_IQ2_S);
    add<L, CodecIq3Xxs>(table, GGML_TYPE_IQ3_XXS);
    add<L, CodecIq3S>(table, GGML_TYPE_IQ3_S);
    table.factor_panel = factor_panel;
    table.subtract_panel = subtract_panel<L>;
    table.all_finite = all_finite;
    table.from_f16 = convert_f16;
    table.from_bf16 = convert_bf16;
    table.add_products = add_products<L>;
    return table;
}

}  // namespace
}  // namespace apex
