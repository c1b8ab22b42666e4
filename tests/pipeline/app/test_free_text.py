"""What a visitor types becomes descriptions, none of which has the name of another bar."""

from smile_pipe.pipeline.app.free_text import MAX_DESCRIPTIONS, parse_free_text


def test_each_line_is_a_description_once_and_in_its_order():
    typed = parse_free_text("a polite smile\n\n  angry  \na polite smile\n", ["SU"])
    assert (typed.descriptions, typed.notes) == (("a polite smile", "angry"), ())


def test_one_that_names_an_expression_of_the_run_is_left_out_and_that_is_told():
    typed = parse_free_text(
        "Surprise\nSU\na polite smile\nsmirk\nneutral\nhappiness + sadness", ["SU", "smirk", "HA;SA"]
    )
    assert typed.descriptions == ("a polite smile", "neutral")
    (note,) = typed.notes
    assert "scored anyway" in note


def test_where_there_are_too_many_it_is_told_how_many_are_scored():
    lines = [f"description {number}" for number in range(MAX_DESCRIPTIONS + 2)]
    typed = parse_free_text("\n".join(lines), [])
    assert typed.descriptions == tuple(lines[:MAX_DESCRIPTIONS])
    assert typed.notes == ("Of 14 descriptions the first 12 are scored.",)
    assert parse_free_text("\n".join(lines[:MAX_DESCRIPTIONS]), []).notes == ()


def test_of_names_alone_nothing_is_left():
    assert parse_free_text("surprise", ["SU"]).descriptions == ()
