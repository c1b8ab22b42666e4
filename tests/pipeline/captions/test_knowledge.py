"""Expression knowledge: the built-in prototypes, files of users, and names of activities."""

import math

import pytest

from smile_pipe.pipeline.captions.action_units import PHRASES
from smile_pipe.pipeline.captions.geometry import FEATURES, POPULATION, describe
from smile_pipe.pipeline.captions.knowledge import Knowledge, load_knowledge, parse_units
from smile_pipe.pipeline.captions.naming import AXES, MAX_STRENGTH, Activity, ExpressionNamer, activity_of
from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import Caption

CLASSES = tuple(EXPRESSIONS)
REST = dict(POPULATION)


def caption_of(changes, reference=REST):
    """The caption of a resting face with some measures changed by millimetres."""
    numbers = describe({name: value + changes.get(name, 0.0) for name, value in REST.items()}, reference).numbers
    return Caption(source="geometry", reference="population" if reference is None else "neutral", numbers=numbers)


def plain_scores(activity, classes, source="geometry"):
    """s_k in plain loops: the mean over variants of the cosine of the activity and the variant."""
    knowledge, scores = load_knowledge(), []
    for name in classes:
        cosines = []
        for prototype in knowledge.prototypes.get(name, ()):
            dot = length = 0.0
            for strength, axis in zip(activity.strengths, AXES[source], strict=True):
                weight = 0.0
                for unit in axis:
                    weight = max(weight, prototype.units.get(unit, 0.0))
                dot += strength * weight
                length += weight * weight
            if length:
                cosines.append(dot / math.sqrt(length) / math.sqrt(sum(s * s for s in activity.strengths)))
        scores.append(sum(cosines) / len(cosines) if cosines else -math.inf)
    return scores


class TestKnowledge:
    def test_each_basic_expression_but_neutral_has_prototypes_with_a_source(self):
        knowledge = load_knowledge()
        assert {*EXPRESSIONS} - knowledge.prototypes.keys() == {"NE"}
        assert {p.source for variants in knowledge.prototypes.values() for p in variants} == knowledge.sources.keys()

    def test_prototypes_are_read_in_the_notation_of_facs(self):
        assert parse_units("1+2+5B+26") == {1: 1.0, 2: 1.0, 5: 0.4, 26: 1.0}
        assert parse_units(9) == {9: 1.0}
        assert {1: 1.0, 2: 1.0, 5: 0.4, 25: 1.0, 26: 1.0} in [p.units for p in load_knowledge().prototypes["SU"]]

    def test_a_dropped_jaw_parts_the_lips(self):
        variants = [p.units for found in load_knowledge().prototypes.values() for p in found]
        dropped = [units for units in variants if units.keys() & {26, 27}]
        assert len(dropped) > 10 and all(25 in units for units in dropped)
        # No variant needs both: the lips may be parted without a dropped jaw.
        for name in ("AN", "DI", "FE"):
            found = [dict(p.units) for p in load_knowledge().prototypes[name] if p.source == "FACS2002"]
            for units in found:
                assert 26 not in units or {n: s for n, s in units.items() if n != 26} in found

    def test_variants_of_an_expression_differ(self):
        for name, variants in load_knowledge().prototypes.items():
            units = [tuple(sorted(variant.units.items())) for variant in variants]
            assert len(set(units)) == len(units), name

    def test_json_keeps_it(self):
        knowledge = load_knowledge()
        assert Knowledge.model_validate_json(knowledge.model_dump_json()) == knowledge

    def test_a_file_adds_and_replaces_expressions(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text("sources: {ME: mine}\nexpressions:\n  contempt: {ME: [14]}\n  happy: {ME: [12]}\n")
        shipped, own = load_knowledge(), load_knowledge(path)
        assert own.prototypes.keys() == shipped.prototypes.keys() | {"contempt"}
        assert [prototype.units for prototype in own.prototypes["HA"]] == [{12: 1.0}]
        assert own.prototypes["SA"] == shipped.prototypes["SA"] and own.sources["ME"] == "mine"

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "not expression knowledge"),
            ("[", "not valid YAML"),
            ("sources: {}\nexpressions: {}", "expressions"),
            ("sources: {A: a}\nexpressions: {x: {A: []}}", "expressions.x.A"),
            ("sources: {A: a}\nexpressions: {x: {A: [6+99]}}", "'99' in '6[+]99' is not an action unit"),
            ("sources: {A: a}\nexpressions: {x: {A: [6+12F]}}", "'12F' in '6[+]12F' is not an action unit"),
            ("sources: {A: a}\nexpressions: {x: {A: [6+6B]}}", "the action unit 6 is in '6[+]6B' twice"),
            ("sources: {A: a}\nexpressions: {x: {A: [{6: 2}]}}", "less than or equal to 1"),
            ("sources: {A: a}\nexpressions: {x: {A: [{99: 1}]}}", "99 is not an action unit"),
            ("sources: {A: a}\nexpressions: {';': {A: [6]}}", "';' is not the name of an expression"),
            ("sources: {A: a}\nexpressions: {x: {B: [6]}}", "names the source 'B', which `sources` lacks"),
            ("sources: {A: a}\nexpressions: {joy: {A: [6]}, HA: {A: [12]}}", "'HA' has second variants"),
            ("sources: {A: a}\nexpressions: {neutral: {A: [6]}}", "neutral has no prototype"),
        ],
    )
    def test_a_file_that_is_wrong_is_a_clear_error(self, tmp_path, text, reason):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(UsageError, match=reason) as error:
            load_knowledge(path)
        assert str(path) in str(error.value)

    def test_a_missing_file_is_a_clear_error(self, tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            load_knowledge(tmp_path / "none.yaml")


class TestNames:
    def test_each_feature_has_action_units(self):
        assert all(feature.units and set(feature.units) <= PHRASES.keys() for feature in FEATURES)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"lip_corner_height": 9.0, "lower_lid_height": 2.0}, "HA"),
            ({"inner_brow_height": 4.7, "outer_brow_height": 5.4, "chin_drop": 25.0, "mouth_opening": 20.0}, "SU"),
            ({"nostril_lift": 4.9, "nose_length": -6.0}, "DI"),
            ({"inner_brow_height": 4.0, "inner_brow_gap": -2.0, "lip_corner_height": -3.5}, "SA"),
            ({"inner_brow_gap": -3.5, "eye_opening": 1.0, "lower_lid_height": 2.0, "lip_thickness": -7.0}, "AN"),
            ({}, "NE"),
        ],
    )
    def test_published_prototypes_name_typical_movements(self, changes, expected):
        namer = ExpressionNamer(load_knowledge(), CLASSES, "geometry")
        assert CLASSES[namer.name(activity_of(caption_of(changes)))] == expected

    def test_each_variant_of_a_basic_expression_has_its_name(self):
        knowledge = load_knowledge()
        namer, num_named = ExpressionNamer(knowledge, CLASSES, "geometry"), 0
        for name in EXPRESSIONS.keys() - {"NE"}:
            for prototype in knowledge.prototypes[name]:
                strengths = tuple(max(prototype.units.get(unit, 0.0) for unit in axis) for axis in AXES["geometry"])
                if any(strengths):
                    number = namer.name(Activity(strengths=strengths, is_neutral=False))
                    assert number is not None
                    # Without 16, which is not measured, disgust with a dropped jaw is like surprise.
                    is_like_surprise = name == "DI" and {16, 25, 26} <= prototype.units.keys()
                    assert CLASSES[number] == ("SU" if is_like_surprise else name)
                    num_named += not is_like_surprise
        assert num_named == 38

    @pytest.mark.parametrize(
        "changes", [{"lip_corner_height": 20.0, "eye_opening": -1.0}, {"chin_drop": 9.0, "inner_brow_height": 1.0}]
    )
    def test_scores_equal_those_of_plain_loops(self, changes):
        activity = activity_of(caption_of(changes))
        classes = (*CLASSES, "HA;SU", "pain", "unknown")
        assert max(activity.strengths) <= MAX_STRENGTH and min(activity.strengths) == 0
        scores = ExpressionNamer(load_knowledge(), classes, "geometry").scores(activity)
        assert scores == pytest.approx(plain_scores(activity, classes), abs=1e-6)

    def test_strengths_are_clipped(self):
        assert max(activity_of(caption_of({"lip_corner_height": 30.0})).strengths) == MAX_STRENGTH

    def test_a_face_is_neutral_if_no_strength_reaches_its_threshold(self):
        assert activity_of(caption_of({"inner_brow_height": 1.0})).is_neutral
        assert not activity_of(caption_of({"inner_brow_height": 2.0})).is_neutral
        # The population needs a larger deviation.
        assert activity_of(caption_of({"inner_brow_height": 2.0}, None)).is_neutral
        assert not activity_of(caption_of({"inner_brow_height": 4.0}, None)).is_neutral

    def test_without_neutral_as_a_candidate_the_nearest_expression_is_named(self):
        weak = activity_of(caption_of({"lip_corner_height": 1.0}))
        assert weak.is_neutral
        assert ExpressionNamer(load_knowledge(), ("AN", "HA"), "geometry").name(weak) == 1

    def test_a_face_without_any_activity_has_no_name_but_neutral(self):
        still = Activity(strengths=(0.0,) * len(FEATURES), is_neutral=True)
        assert ExpressionNamer(load_knowledge(), ("AN", "HA"), "geometry").name(still) is None
        assert ExpressionNamer(load_knowledge(), ("AN", "NE"), "geometry").name(still) == 1

    def test_expressions_without_prototypes_are_never_named(self):
        namer = ExpressionNamer(load_knowledge(), ("smirk", "HA"), "geometry")
        assert namer.known.tolist() == [False, True]
        assert namer.name(activity_of(caption_of({"inner_brow_gap": -3.5, "lip_corner_height": 1.0}))) == 1

    def test_coded_action_units_are_named_too(self):
        caption = Caption(source="au", reference="none", numbers={"AU06": 0.8, "12": 1.0, "L14": 0.3})
        activity = activity_of(caption)
        assert not activity.is_neutral
        assert CLASSES[ExpressionNamer(load_knowledge(), CLASSES, "au").name(activity)] == "HA"
        still = activity_of(Caption(source="au", reference="none", numbers={"AU06": 0.0}))
        assert still.is_neutral
