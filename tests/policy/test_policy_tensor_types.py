"""Rules for single tensors: the notation of llama-quantize, and its mistakes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex.errors import UsageError
from apex.policy import TensorTypeRule, parse_tensor_type, parse_tensor_type_file

# As the reference writes its files: one exact name a line, the type in either case.
REFERENCE = """\
blk.0.ffn_gate_exps=Q6_K
blk.0.ffn_up_exps=Q6_K
blk.0.ffn_down_shexp=Q8_0
blk.0.attn_qkv=Q6_K
blk.0.ssm_alpha=Q6_K
blk.10.ffn_gate_exps=iq4_xs
blk.10.ffn_down_exps=iq2_xxs
blk.40.nextn.eh_proj=Q4_K
"""


def test_a_rule() -> None:
    assert parse_tensor_type("attn_q=q8_0") == TensorTypeRule("attn_q", "Q8_0", "--tensor-type")


def test_the_pattern_is_lowered_as_llama_quantize_does() -> None:
    rule = parse_tensor_type(r"Blk\.[0-9]+\.ATTN_(Q|K)=IQ4_xs", "rules.txt")
    assert rule == TensorTypeRule(r"blk\.[0-9]+\.attn_(q|k)", "IQ4_XS", "rules.txt")
    assert parse_tensor_type("\u0130X=F16").pattern == "\u0130x"


def test_a_file_of_the_reference_is_read_unchanged() -> None:
    rules = parse_tensor_type_file(REFERENCE, "apex.txt")
    assert [(rule.pattern, rule.type) for rule in rules] == [
        ("blk.0.ffn_gate_exps", "Q6_K"),
        ("blk.0.ffn_up_exps", "Q6_K"),
        ("blk.0.ffn_down_shexp", "Q8_0"),
        ("blk.0.attn_qkv", "Q6_K"),
        ("blk.0.ssm_alpha", "Q6_K"),
        ("blk.10.ffn_gate_exps", "IQ4_XS"),
        ("blk.10.ffn_down_exps", "IQ2_XXS"),
        ("blk.40.nextn.eh_proj", "Q4_K"),
    ]
    assert {rule.source for rule in rules} == {"apex.txt"}


def test_white_space_separates_and_comment_lines_are_skipped() -> None:
    text = "# experts=Q2_K\n  a=f16\tb=F32\r\n\n  # more\n\v c=q8_0 \f"
    rules = parse_tensor_type_file(text, "x")
    assert [(rule.pattern, rule.type) for rule in rules] == [
        ("a", "F16"),
        ("b", "F32"),
        ("c", "Q8_0"),
    ]
    assert parse_tensor_type_file("", "x") == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("attn_q", "'attn_q' has no '='"),
        ("", "'' has no '='"),
        ("=q8_0", "lacks the pattern"),
        ("attn_q=", "lacks the type"),
        ("attn_q = q8_0", "white space"),
        (" attn_q=q8_0", "white space"),
        ("attn_q=q8_0 ", "'q8_0 ' for a type"),
        ("attn_q=q8-0", "'q8-0' for a type"),
        ("attn_q==q8_0", "'=q8_0' for a type"),
        ("attn_q=\u00df", "for a type"),
    ],
)
def test_a_malformed_rule_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tensor_type(text)
    assert caught.value.message.startswith("--tensor-type: ")
    assert problem in caught.value.message
    assert "pattern=type" in caught.value.hint


def test_a_malformed_rule_of_a_file_is_named_with_its_line() -> None:
    with pytest.raises(UsageError, match=r"rules\.txt, line 3: 'attn_k' has no '='"):
        parse_tensor_type_file("attn_q=q8_0\n# comment\nffn=f16 attn_k\n", "rules.txt")


PATTERNS = st.from_regex(r"[a-z0-9_.\\|()\[\]*+?^$-]{1,30}", fullmatch=True)
TYPES = st.from_regex(r"[A-Z0-9_]{1,10}", fullmatch=True)


@settings(deadline=None)
@given(pattern=PATTERNS, type_name=TYPES, source=st.text(max_size=5))
def test_a_rule_survives_being_written_and_read(pattern: str, type_name: str, source: str) -> None:
    expected = TensorTypeRule(pattern, type_name, source)
    assert parse_tensor_type(f"{pattern}={type_name}", source) == expected
    assert parse_tensor_type(f"{pattern.upper()}={type_name.lower()}", source) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(PATTERNS, TYPES)), st.sampled_from([" ", "\n", "\r\n", "\t", "\n\n"]))
def test_a_file_survives_being_written_and_read(rules: list[tuple[str, str]], gap: str) -> None:
    text = gap.join(f"{pattern}={type_name}" for pattern, type_name in rules)
    read = parse_tensor_type_file(text, "x")
    assert [(rule.pattern, rule.type) for rule in read] == rules


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_rule_or_a_usage_error(text: str) -> None:
    try:
        rule = parse_tensor_type(text)
    except UsageError:
        return
    assert f"{rule.pattern}={rule.type}".lower() == text.lower()
