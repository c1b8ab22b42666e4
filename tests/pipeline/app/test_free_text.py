"""Typed text becomes descriptions without duplicates and known names."""

from smile_pipe.pipeline.app.free_text import MAX_DESCRIPTIONS, parse_free_text


def test_each_line_is_one_description_without_duplicates():
    parsed = parse_free_text("a polite smile\n\n  angry  \na polite smile\n", ["SU"])
    assert (parsed.descriptions, parsed.notes) == (("a polite smile", "angry"), ())


def test_names_of_known_expressions_are_left_out_with_a_note():
    parsed = parse_free_text(
        "Surprise\nSU\na polite smile\nsmirk\nneutral\nhappiness + sadness", ["SU", "smirk", "HA;SA"]
    )
    assert parsed.descriptions == ("a polite smile", "neutral")
    (note,) = parsed.notes
    assert "scored anyway" in note


def test_surplus_descriptions_are_left_out_with_a_note():
    lines = [f"description {number}" for number in range(MAX_DESCRIPTIONS + 2)]
    parsed = parse_free_text("\n".join(lines), [])
    assert parsed.descriptions == tuple(lines[:MAX_DESCRIPTIONS])
    assert parsed.notes == ("Of 14 descriptions the first 12 are scored.",)
    assert parse_free_text("\n".join(lines[:MAX_DESCRIPTIONS]), []).notes == ()


def test_known_names_alone_give_no_description():
    assert parse_free_text("surprise", ["SU"]).descriptions == ()
