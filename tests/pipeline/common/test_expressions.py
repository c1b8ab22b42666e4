"""Codes of expressions, and the words for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smile_pipe.pipeline.common.expressions import EXPRESSIONS, expression_code, expressions_of, order_expressions

words = st.sampled_from(["happy", "HA", "Sad", "surprise", "none", "awe", "contempt", ""])


@pytest.mark.parametrize("code", EXPRESSIONS)
def test_code_and_word_give_the_code_in_any_case(code):
    assert expression_code(code.lower()) == expression_code(f" {EXPRESSIONS[code].title()} ") == code


@given(st.lists(words, max_size=5).flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))))
def test_joined_expressions_do_not_depend_on_their_order(lists):
    first, second = (expression_code(";".join(some)) for some in lists)
    assert first == second == expression_code(first)
    assert len(set(expressions_of(first))) == len(expressions_of(first))


def test_basic_expressions_come_first_and_others_by_name():
    assert order_expressions(["b", "SU", "NE", "a", "AN", "SU"]) == ("AN", "SU", "NE", "a", "b")
    assert expressions_of(expression_code("wonder; surprised;happy")) == ("HA", "SU", "wonder")
