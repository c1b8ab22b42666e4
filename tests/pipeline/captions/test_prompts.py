"""Prompts of samples from labels, geometry and action units, and what the record contains."""

from dataclasses import replace

import pytest

from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.captions.prompts import Prompt, write_prompt
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.meshes.mesh import MeshError

SCAN = SampleSource("a_HA", "a", "HA", 4, (ScanFiles("a.obj"),))
SEQUENCE = replace(SCAN, frame_rate=25.0)
REST = {"mouth_opening": 0.0, "inner_brow_height": 20.0}
OPEN, WIDE_OPEN = REST | {"mouth_opening": 8.0}, REST | {"mouth_opening": 16.0}


def prompt(sample=SCAN, source="label", measures=(), reference=None) -> Prompt:
    return write_prompt(sample, source, load_bank(), measures, reference)


class TestLabel:
    def test_prompt_comes_from_the_bank_and_label_is_the_concept(self):
        assert prompt() == Prompt(load_bank().prompt_for("a_HA", "HA"), "HA")

    def test_compound_expression_names_both(self):
        compound = prompt(replace(SCAN, expression="HA;SU"))
        first, second = compound.text.split(" and ", 1)[0], compound.text
        assert compound.concept == "HA;SU" and any(t.startswith(first) for t in load_bank().templates["HA"])
        assert any(second.endswith(t) for t in load_bank().templates["SU"])

    def test_unknown_expression_uses_its_name(self):
        assert "mouth stretch" in prompt(replace(SCAN, expression="mouth_stretch")).text


class TestGeometry:
    def test_caption_and_numbers_are_relative_to_the_neutral_scan(self):
        written = prompt(source="geometry", measures=[OPEN], reference=REST)
        assert written.text == "lips slightly parted" and written.concept == written.text
        assert (written.caption.source, written.caption.reference) == ("geometry", "neutral")
        assert written.caption.numbers["mouth_opening"] == 8.0

    def test_sequence_caption_compares_strongest_with_first_frame(self):
        written = prompt(SEQUENCE, "geometry", [REST, WIDE_OPEN, OPEN], REST)
        assert written.caption.numbers["mouth_opening"] == 16.0 and written.caption.reference == "first-frame"

    @pytest.mark.parametrize("reference", [None, {"chin_drop": 50.0}])
    def test_population_fallback_is_recorded(self, reference):
        assert prompt(source="geometry", measures=[OPEN], reference=reference).caption.reference == "population"

    def test_label_does_not_change_the_caption(self):
        written = [
            prompt(replace(SCAN, expression=e, level=n, labels={"sex": e}), "geometry", [OPEN], REST)
            for e, n in (("HA", 1), ("SA", 4))
        ]
        assert written[0] == written[1]

    def test_missing_landmarks_are_an_error(self):
        with pytest.raises(MeshError, match="no landmarks of a known set"):
            prompt(source="geometry", measures=[None], reference=REST)


class TestActionUnits:
    def test_units_are_described_and_recorded(self):
        written = prompt(replace(SCAN, action_units={"AU12": 1.0, "AU6": 0.3}), "au")
        assert "lip corners strongly pulled up" in written.text and "slightly raised cheeks" in written.text
        assert (written.caption.source, written.caption.numbers) == ("au", {"AU12": 1.0, "AU6": 0.3})

    def test_coded_presence_has_no_adverbs(self):
        assert "strongly" not in prompt(replace(SCAN, action_units={"AU12": 1.0}), "au").text

    def test_concept_is_that_of_the_units_that_are_named(self):
        strong = dict.fromkeys(("AU1", "AU2", "AU5", "AU25", "AU26"), 0.8)
        one, other = (prompt(replace(SCAN, action_units=strong | weak), "au") for weak in ({"AU9": 0.2}, {"AU12": 0.3}))
        assert one.text == other.text == one.concept == other.concept
        # The record has all of them.
        assert one.caption.numbers == strong | {"AU9": 0.2}

    def test_no_active_unit_is_relaxed_and_no_coding_is_an_error(self):
        assert "relaxed" in prompt(replace(SCAN, action_units={}), "au").text
        with pytest.raises(MeshError, match="no coded action units"):
            prompt(source="au")
