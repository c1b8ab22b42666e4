"""Selection of samples, and conditions over labels."""

import sys

import pytest

from helpers.samples import make_row, make_sample
from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.shards.errors import UsageError


def source(key: str, expression: str, level: int | None = None, **labels: str) -> SampleSource:
    return SampleSource(key, key.split("_")[0], expression, level, (ScanFiles(f"{key}.obj"),), labels=labels)


ROWS = [
    source("F001_a", "HA", 3, sex="F", age="31"),
    source("F001_b", "NE", None, sex="F", age="31"),
    source("M002_a", "AN", 4, sex="M", age=""),
    source("M002_b", "HA;SU", 1, sex="M", age="007"),
    source("M003_a", "contempt", 2, sex="M", age="100"),
]


def keys(**options) -> list[str]:
    return [row.key for row in SampleFilter(**options).apply(ROWS)]


def where(text: str) -> list[str]:
    return keys(where=text)


class TestSelection:
    def test_no_option_selects_all_samples(self):
        assert SampleFilter().apply(ROWS) == ROWS and SampleFilter().apply([]) == []

    def test_subjects(self):
        assert keys(subjects="F001, M003") == ["F001_a", "F001_b", "M003_a"]

    @pytest.mark.parametrize("word", ["HA", "ha", "happiness"])
    def test_expression_by_code_or_word_selects_samples_with_several_expressions_too(self, word):
        assert keys(expressions=word) == ["F001_a", "M002_b"]
        assert keys(expressions=("SU", "Contempt")) == ["M002_b", "M003_a"]

    def test_joined_expressions_select_samples_with_all_of_them(self):
        assert keys(expressions=("surprise;happy",)) == ["M002_b"]

    def test_level_0_selects_samples_without_a_level(self):
        assert keys(levels="3,0") == ["F001_a", "F001_b"]

    def test_all_options_must_match(self):
        assert keys(subjects="M002,M003", levels="1,2,3", where="age < 50") == ["M002_b"]

    def test_order_is_kept(self):
        assert [row.key for row in SampleFilter(levels=(1, 3)).apply(ROWS[::-1])] == ["M002_b", "F001_a"]

    def test_index_rows_are_selected_like_sources(self):
        rows = [make_row(make_sample("k1", "s1", "HA", size=4)), make_row(make_sample("k2", "s2", "SA", size=4))]
        assert SampleFilter(expressions="sad", where="subject == 's2'").apply(rows) == rows[1:]


class TestConditions:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("level >= 3 and sex == 'F'", ["F001_a"]),
            ("level == 0", ["F001_b"]),
            ("not sex == 'F' and level != 1", ["M002_a", "M003_a"]),
            ("expression in ('AN', 'contempt')", ["M002_a", "M003_a"]),
            ("expression not in ['AN', 'NE', 'HA']", ["M002_b", "M003_a"]),
            ("key == 'F001_a' or subject == 'M003'", ["F001_a", "M003_a"]),
            ("subject.startswith('M0') and sex.lower() == 'm' and level > 1", ["M002_a", "M003_a"]),
            ("1 < level <= 3", ["F001_a", "M003_a"]),
            ("'SU' in expression", ["M002_b"]),
            ("level > -1 and level < 2", ["F001_b", "M002_b"]),
        ],
    )
    def test_conditions_select_samples(self, text, expected):
        assert where(text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("age > 9", ["F001_a", "F001_b", "M003_a"]),
            ("age < 32", ["F001_a", "F001_b", "M002_b"]),
            ("99 < age", ["M003_a"]),
            ("age == 7", ["M002_b"]),
            ("age == '007'", ["M002_b"]),
            ("age in (100, 7)", ["M002_b", "M003_a"]),
            ("age == ''", ["M002_a"]),
            ("age != 31", ["M002_a", "M002_b", "M003_a"]),
            ("age >= '31'", ["F001_a", "F001_b", "M003_a"]),
            ("sex <= 'F'", ["F001_a", "F001_b"]),
        ],
    )
    def test_numeric_labels_compare_as_numbers_and_empty_labels_are_unknown(self, text, expected):
        assert where(text) == expected

    def test_missing_label_is_empty(self):
        rows = [source("a", "HA", site="Köln"), source("b", "HA")]
        assert [row.key for row in SampleFilter(where="site == ''").apply(rows)] == ["b"]

    def test_labels_are_written_as_identifiers_and_exact_names_win(self):
        labels = {"age group": "old", "subject": "9", "a_b": "1", "a b": "2", "a~b": "3"}
        rows = [source("a", "HA", **labels), source("b", "HA", **{"age group": "young"})]
        condition = "age_group == 'old' and subject == 'a' and a_b == 1"
        assert [row.key for row in SampleFilter(where=condition).apply(rows)] == ["a"]
        with pytest.raises(UsageError, match=r"choose one of key, subject, expression, level, a_b, age_group$"):
            SampleFilter(where="a == 1").apply(rows)

    @pytest.mark.parametrize(
        "text",
        [
            "__import__('os').system('touch /tmp/never')",
            "().__class__.__bases__",
            "[row for row in (1, 2)]",
            "(lambda: True)()",
            "open('/etc/passwd') == ''",
            "key.format(1) == ''",
            "'a' * 10 == key",
            "9 ** 9 ** 9 > level",
            "f'{key}' == ''",
            "{1: 2} == level",
            "level is 3",
            "list('abc') == key",
            "(x := 3) == level",
            "key[0] == 'F'",
            "True if level else False",
            "level + 1 == 2",
            "sex.join(key) == ''",
            "sex.__class__ == ''",
            "'F' in (sex, key)",
        ],
    )
    def test_text_that_does_more_than_compare_is_refused(self, text):
        with pytest.raises(
            UsageError, match=r"only comparisons are allowed|cannot be evaluated|unknown label (open|list|__im)"
        ):
            where(text)

    @pytest.mark.parametrize("text", ["", "level >=", "level = 3", "level == 3; sex", "'" * 3, "(" * 300])
    def test_invalid_condition_is_refused_with_an_example(self, text):
        with pytest.raises(UsageError, match=r"^where .*(cannot be parsed|cannot be evaluated|only comparisons)"):
            where(text)

    def test_too_deeply_nested_condition_is_refused(self):
        # Other tests may have raised the limit of the process.
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(600)
        try:
            with pytest.raises(UsageError, match=r"cannot be evaluated for the sample F001_a: maximum recursion"):
                where("not " * 450 + "level == 1")
        finally:
            sys.setrecursionlimit(limit)

    def test_too_long_text_is_not_parsed(self):
        with pytest.raises(UsageError, match="over 100,000 characters"):
            where("level == 1 or " * 8000 + "level == 2")

    @pytest.mark.parametrize("text", ["mood == 1", "level > 9 and mood == 1", "Sex == 'F'"])
    def test_unknown_label_is_refused_with_the_known_ones(self, text):
        with pytest.raises(
            UsageError, match=r"unknown label \w+; choose one of key, subject, expression, level, age, sex"
        ):
            where(text)

    @pytest.mark.parametrize("text", ["sex", "level", "level and sex", "'F'"])
    def test_result_that_is_not_true_or_false_is_refused(self, text):
        with pytest.raises(UsageError, match="not true or false; write a comparison"):
            where(text)

    @pytest.mark.parametrize("text", ["sex > 3", "level > 'x'", "level in 3"])
    def test_impossible_comparison_names_the_sample(self, text):
        with pytest.raises(UsageError, match=r"^where .* cannot be evaluated for the sample F001_a"):
            where(text)


class TestNoMatch:
    def test_error_names_the_options_and_the_existing_values(self):
        with pytest.raises(UsageError) as error:
            keys(subjects="F009,M002", levels="0", where="sex == 'X'")
        assert str(error.value) == (
            "no sample matches subjects F009,M002, levels 0, where sex == 'X'; the values are "
            "subjects F001, M002, M003; "
            "expressions AN, HA, NE, HA;SU, contempt; levels 0, 1, 2, 3, 4; age '', 007, 100, 31; sex F, M"
        )

    def test_many_values_are_truncated(self):
        rows = [source(f"s{n:03d}_a", "HA") for n in range(100)]
        with pytest.raises(UsageError, match=r"subjects s000, .*, s007, \.\.\. \(100\); expressions HA; levels 0$"):
            SampleFilter(subjects="nobody").apply(rows)

    def test_error_without_any_samples(self):
        with pytest.raises(
            UsageError, match="no sample matches levels 1; the values are none, as there are no samples"
        ):
            SampleFilter(levels="1").apply([])
