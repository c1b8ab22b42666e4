"""Text for counts and lists of names."""

import pytest

from smile_pipe.shards.formatting import describe_samples, pluralize, truncate_list


@pytest.mark.parametrize(
    ("count", "nouns", "said"),
    [
        (1, ("shard",), "1 shard"),
        (0, ("shard",), "0 shards"),
        (2500, ("file",), "2,500 files"),
        (1, ("mesh", "meshes"), "1 mesh"),
        (2, ("mesh", "meshes"), "2 meshes"),
    ],
)
def test_pluralize(count, nouns, said):
    assert pluralize(count, *nouns) == said


@pytest.mark.parametrize(
    ("scans", "sequences", "said"),
    [(1, 0, "1 scan"), (0, 2, "2 sequences"), (24, 1, "24 scans and 1 sequence"), (0, 0, "no samples")],
)
def test_describe_samples(scans, sequences, said):
    assert describe_samples(scans, sequences) == said


@pytest.mark.parametrize(
    ("names", "said"), [("", ""), ("a", "a"), ("abcde", "a, b, c, d, e"), ("abcdef", "a, b, c, d, e, ...")]
)
def test_truncate_list(names, said):
    assert truncate_list(list(names)) == said
