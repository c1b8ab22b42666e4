"""Where a sample's prompt comes from, and what its record says of that."""

from dataclasses import replace

import pytest

from smile_pipe.pipeline.captions.bank import load
from smile_pipe.pipeline.captions.prompts import Prompt, write_prompt
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.meshes.mesh import MeshError

SCAN = SampleSource("a_HA", "a", "HA", 4, (ScanFiles("a.obj"),))
SEQUENCE = replace(SCAN, frame_rate=25.0)
REST = {"mouth_opening": 0.0, "inner_brow_height": 20.0}
OPEN, WIDE_OPEN = REST | {"mouth_opening": 8.0}, REST | {"mouth_opening": 16.0}


def prompt(sample=SCAN, source="label", measures=(), reference=None) -> Prompt:
    return write_prompt(sample, source, load(), measures, reference)


class TestALabel:
    def test_draws_from_the_bank_and_is_the_concept(self):
        assert prompt() == Prompt(load().prompt_for("a_HA", "HA"), "HA")

    def test_of_two_expressions_names_both(self):
        both = prompt(replace(SCAN, expression="HA;SU"))
        first, second = both.text.split(" and ", 1)[0], both.text
        assert both.concept == "HA;SU" and any(t.startswith(first) for t in load().templates["HA"])
        assert any(second.endswith(t) for t in load().templates["SU"])

    def test_that_the_bank_does_not_know_is_said_in_its_own_words(self):
        assert "mouth stretch" in prompt(replace(SCAN, expression="mouth_stretch")).text


class TestGeometry:
    def test_says_what_differs_from_the_subjects_own_neutral_and_by_how_much(self):
        written = prompt(source="geometry", measures=[OPEN], reference=REST)
        assert written.text == "lips slightly parted" and written.concept == written.text
        assert (written.caption.source, written.caption.reference) == ("geometry", "neutral")
        assert written.caption.numbers["mouth_opening"] == 8.0

    def test_of_a_sequence_describes_its_strongest_frame_against_the_first(self):
        written = prompt(SEQUENCE, "geometry", [REST, WIDE_OPEN, OPEN], REST)
        assert written.caption.numbers["mouth_opening"] == 16.0 and written.caption.reference == "first-frame"

    @pytest.mark.parametrize("reference", [None, {"chin_drop": 50.0}])
    def test_falls_back_to_the_population_and_says_so(self, reference):
        assert prompt(source="geometry", measures=[OPEN], reference=reference).caption.reference == "population"

    def test_does_not_look_at_the_label(self):
        written = [
            prompt(replace(SCAN, expression=e, level=n, labels={"sex": e}), "geometry", [OPEN], REST)
            for e, n in (("HA", 1), ("SA", 4))
        ]
        assert written[0] == written[1]

    def test_needs_landmarks(self):
        with pytest.raises(MeshError, match="no landmarks of a known set"):
            prompt(source="geometry", measures=[None], reference=REST)


class TestActionUnits:
    def test_are_described_and_recorded(self):
        written = prompt(replace(SCAN, action_units={"AU12": 1.0, "AU6": 0.3}), "au")
        assert "lip corners strongly pulled up" in written.text and "slightly raised cheeks" in written.text
        assert (written.caption.source, written.caption.numbers) == ("au", {"AU12": 1.0, "AU6": 0.3})

    def test_of_which_only_the_presence_is_coded_are_named_plainly(self):
        assert "strongly" not in prompt(replace(SCAN, action_units={"AU12": 1.0}), "au").text

    def test_none_is_a_relaxed_face_and_no_coding_is_a_failure(self):
        assert "relaxed" in prompt(replace(SCAN, action_units={}), "au").text
        with pytest.raises(MeshError, match="no coded action units"):
            prompt(source="au")
