"""Captions from measure_millimetres geometry, with each of the landmark sets."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smile_pipe.pipeline.captions.action_units import RELAXED
from smile_pipe.pipeline.captions.geometry import (
    FEATURES,
    MAX_PHRASES,
    POPULATION,
    POPULATION_THRESHOLD_STDS,
    describe,
    measure,
)
from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM

FEATURE = {feature.phrase: feature for feature in FEATURES}
SETS = (22, 68, 83)


def mirrored(points) -> list[tuple[float, float, float]]:
    return [(-x, y, z) for x, y, z in points]


def plain_face(num: int) -> np.ndarray:
    """Landmarks of a simple face in millimetres; the subject's right (-x) comes first."""
    brow = [(-58, 17, -14), (-49, 25, -4), (-38, 28, 4), (-24, 28, 10), (-12, 25, 13)]
    upper, lower = [(-37, 4, 1), (-32, 5, 1), (-27, 4, 2)], [(-27, -4, 1), (-32, -5, 1), (-37, -4, 0)]
    outer, inner = (-45, -1, -7), (-18, -1, -1)
    top = [(-17, -61, 23), (-8, -58, 27), (0, -58, 29), (8, -58, 27), (17, -61, 23)]
    base = [(17, -75, 20), (9, -77, 24), (0, -78, 26), (-9, -77, 24), (-17, -75, 20)]
    lips = [(-25, -69, 12), *top, (25, -69, 12), *base]
    inner_lips = [(-22, -69, 12), (-10, -66, 21), (0, -66, 23), (10, -66, 21), (22, -69, 12)]
    inner_lips += [(10, -68, 21), (0, -68, 23), (-10, -68, 21)]
    chin = [(0, -110, 16)]
    if num == 22:
        brows, eyes = [brow[0], brow[2], brow[4]], [outer, inner]
        nose = [(-8, 0, 8), (8, 0, 8), (-16, -41, 15), (0, -30, 38), (16, -41, 15)]
        mouth = [lips[0], lips[3], lips[6], inner_lips[2], inner_lips[6], lips[9]]
        points = [*brows, *mirrored(brows[::-1]), *eyes, *mirrored(eyes[::-1]), *nose, *mouth, *chin]
    elif num == 68:
        eye, other_eye = [outer, *upper[::2], inner, *lower[::2]], [inner, *upper[::-2], outer, *lower[::-2]]
        nose = [(0, 3, 14), (0, -8, 22), (0, -19, 30), (0, -29, 39)]
        nose += [(-13, -44, 18), (-6, -45, 24), (0, -46, 25), (6, -45, 24), (13, -44, 18)]
        jaw = [(-70, 0, -50)] * 8
        points = [*jaw, *chin, *mirrored(jaw), *brow, *mirrored(brow[::-1]), *nose, *eye, *mirrored(other_eye)]
        points += [*lips, *inner_lips]
    else:
        eye, other_eye = [outer, *upper, inner, *lower], [inner, *upper[::-1], outer, *lower[::-1]]
        below = [(x, y - 6, z) for x, y, z in brow[::-1]]
        nose = [(-7, 0, 10), (-9, -10, 14), (-14, -30, 16), (-17, -40, 15), (-14, -45, 18), (-6, -47, 24)]
        jaw = [(-70, 0, -50)] * 7
        points = [*eye, *mirrored(other_eye), *brow, *below, *mirrored([*brow[::-1], *below[::-1]])]
        points += [*nose, *mirrored(nose[::-1]), *lips, *inner_lips, *jaw, *chin, *mirrored(jaw)]
    assert len(points) == num
    return np.array(points, float)


# Indices of the points of each part, by landmark set.
PARTS = {
    "inner brows": {22: [2, 3], 68: [21, 22], 83: [20, 21, 26, 35]},
    "brows": {22: [*range(6)], 68: [*range(17, 27)], 83: [*range(16, 36)]},
    "outer brows": {22: [0, 5], 68: [17, 18, 25, 26], 83: [16, 17, 24, 25, 29, 30, 31, 32]},
    "upper lids": {68: [37, 38, 43, 44], 83: [1, 2, 3, 9, 10, 11]},
    "lower lids": {68: [40, 41, 46, 47], 83: [5, 6, 7, 13, 14, 15]},
    "nose wings": {68: [31, 35], 83: [39, 44]},
    "lip corners": {22: [15, 17], 68: [48, 54], 83: [48, 54]},
    "lower lip": {22: [19, 20], 68: [*range(55, 60), 65, 66, 67], 83: [*range(55, 60), 65, 66, 67]},
    "lips": {22: [*range(15, 21)], 68: [*range(48, 68)], 83: [*range(48, 68)]},
    "upper lip edge": {22: [16], 68: [*range(49, 54)], 83: [*range(49, 54)]},
    "chin": {22: [21], 68: [8], 83: [75]},
}
UP, DOWN, OUT = np.array([0, 1, 0]), np.array([0, -1, 0]), np.array([0, 0, 1])


def measure_millimetres(points: np.ndarray) -> dict[str, float] | None:
    return measure((points / UNIT_MM).astype(np.float32))


def move_part(num: int, part: str, by: np.ndarray) -> np.ndarray:
    points = plain_face(num)
    points[PARTS[part][num]] += by
    return points


def widen_part(num: int, part: str, by: float) -> np.ndarray:
    """The face with the points of a part move_part outwards on both sides."""
    points = plain_face(num)
    points[PARTS[part][num], 0] += by * np.sign(points[PARTS[part][num], 0])
    return points


class TestMeasure:
    @pytest.mark.parametrize("num", SETS)
    @pytest.mark.parametrize(
        ("part", "by", "expected"),
        [
            ("inner brows", 3 * UP, {"inner_brow_height": 3}),
            ("outer brows", 4 * UP, {"outer_brow_height": 4}),
            ("upper lids", 2 * UP, {"eye_opening": 2}),
            ("lower lids", 1 * UP, {"eye_opening": -1, "lower_lid_height": 1}),
            ("nose wings", 1.5 * UP, {"nostril_lift": 1.5}),
            ("lip corners", 5 * UP, {"lip_corner_height": 5}),
            ("lower lip", 6 * DOWN, {"mouth_opening": 6, "lip_corner_height": 2}),
            ("upper lip edge", 3 * UP, {"upper_lip_length": -3, "lip_thickness": 3, "lip_corner_height": -2}),
            ("lips", 4 * OUT, {"lip_protrusion": 4}),
            ("chin", 9 * DOWN, {"chin_drop": 9}),
        ],
    )
    def test_moving_a_part_changes_its_measures(self, num, part, by, expected):
        if num not in PARTS[part]:
            pytest.skip(f"{num} landmarks do not mark {part}")
        before, after = measure_millimetres(plain_face(num)), measure_millimetres(move_part(num, part, by))
        changes = {name: after[name] - before[name] for name in before}
        own = {"nose wings": ("nose_length", "upper_lip_length", "lip_protrusion")}.get(part, ())
        for name, change in changes.items():
            if name not in own:  # the wings are part of the base that the nose is measure_millimetres to
                assert change == pytest.approx(expected.get(name, 0), abs=0.01), name

    @pytest.mark.parametrize("num", SETS)
    def test_widths_are_measured_between_both_sides(self, num):
        before = measure_millimetres(plain_face(num))
        assert measure_millimetres(widen_part(num, "brows", -2))["inner_brow_gap"] == pytest.approx(
            before["inner_brow_gap"] - 4, abs=0.01
        )
        assert measure_millimetres(widen_part(num, "lip corners", 3))["mouth_width"] == pytest.approx(
            before["mouth_width"] + 6, abs=0.01
        )

    @pytest.mark.parametrize(("num", "count"), [(22, 11), (68, 14), (83, 14)])
    def test_each_landmark_set_gives_its_measures(self, num, count):
        names = measure_millimetres(plain_face(num)).keys()
        assert len(names) == count and names <= POPULATION.keys()

    @pytest.mark.parametrize("num", SETS)
    def test_order_of_sides_does_not_matter(self, num):
        assert measure_millimetres(plain_face(num) * (-1, 1, 1)) == pytest.approx(measure_millimetres(plain_face(num)))

    @pytest.mark.parametrize(
        "ring", [slice(0, 8), slice(8, 16), slice(16, 26), slice(26, 36), slice(48, 60), slice(60, 68)]
    )
    def test_start_of_a_bu3dfe_ring_does_not_matter(self, ring):
        points = plain_face(83)
        points[ring] = np.roll(points[ring], 3, axis=0)
        assert measure_millimetres(points) == pytest.approx(measure_millimetres(plain_face(83)))

    @pytest.mark.parametrize("num", SETS)
    def test_missing_point_removes_only_the_measures_that_need_it(self, num):
        whole = measure_millimetres(plain_face(num))
        part = measure_millimetres(move_part(num, "lip corners", np.full(3, np.nan)))
        lost = {"lip_corner_height", "mouth_width", "upper_lip_length", "lip_thickness", "lip_protrusion"}
        assert whole.keys() - part.keys() == lost
        assert part == {name: whole[name] for name in part}

    @pytest.mark.parametrize("points", [np.zeros((5, 3)), np.zeros((0, 3)), np.full((68, 3), np.nan)])
    def test_unknown_or_missing_landmarks_give_none(self, points):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert measure_millimetres(points) is None

    def test_overlapping_lips_have_a_negative_opening(self):
        points = plain_face(68)
        points[[65, 66, 67], 1] += 5
        assert measure_millimetres(points)["mouth_opening"] == pytest.approx(-3, abs=0.01)


def shift_feature(phrase: str, share: float, base: dict[str, float] = POPULATION) -> dict[str, float]:
    """Change the first measure of a feature in `base` by `share` of the feature's full score."""
    feature = FEATURE[phrase]
    name, weight = next(iter(feature.weights.items()))
    return base | {name: base[name] + share * feature.full_score / weight}


def caption_phrases(measures: dict[str, float], reference: dict[str, float] | None = POPULATION) -> list[str]:
    return describe(measures, reference).text.split(", ")


class TestDescribe:
    @pytest.mark.parametrize("reference", [POPULATION, None])
    def test_face_equal_to_its_reference_is_relaxed(self, reference):
        description = describe(POPULATION, reference)
        assert description.text == RELAXED
        assert set(description.numbers.values()) == {0.0} and description.numbers.keys() == POPULATION.keys()

    @pytest.mark.parametrize("phrase", FEATURE)
    def test_feature_is_named_with_its_intensity(self, phrase):
        threshold = FEATURE[phrase].threshold / FEATURE[phrase].full_score
        assert phrase.format("strongly ") in caption_phrases(shift_feature(phrase, 1.0))
        assert phrase.format("") in caption_phrases(shift_feature(phrase, 0.7))
        if threshold < 0.45:
            assert phrase.format("slightly ") in caption_phrases(shift_feature(phrase, 0.45))
        below = caption_phrases(shift_feature(phrase, threshold * 0.95))
        assert not {phrase.format(adverb) for adverb in ("slightly ", "", "strongly ")} & set(below)

    @pytest.mark.parametrize("phrase", FEATURE)
    def test_population_reference_needs_unusual_deviations(self, phrase):
        feature = FEATURE[phrase]
        unusual = max(POPULATION_THRESHOLD_STDS * feature.resting_std, feature.threshold) / feature.full_score
        words = {phrase.format(adverb) for adverb in ("slightly ", "", "strongly ")}
        assert words & set(caption_phrases(shift_feature(phrase, unusual * 1.05), None))
        assert not words & set(caption_phrases(shift_feature(phrase, unusual * 0.95), None))

    def test_caption_of_the_readme_example(self):
        face = shift_feature("{}raised inner brows", 1.0)
        face = shift_feature("lips {}parted", 0.6, face)
        face = shift_feature("jaw {}dropped", 0.7, face)
        assert describe(face, POPULATION).text == "strongly raised inner brows, lips parted, jaw dropped"

    def test_five_strongest_features_are_named_from_the_forehead_down(self):
        shares = {
            "{}raised inner brows": 0.6,
            "{}raised outer brows": 0.3,
            "{}widened eyes": 0.7,
            "{}wrinkled nose": 0.8,
        }
        shares |= {"lips {}pushed forward": 1.0, "lips {}parted": 0.9}
        face = POPULATION
        for phrase, share in shares.items():
            face = shift_feature(phrase, share, face)
        assert len(shares) == MAX_PHRASES + 1
        assert describe(face, POPULATION).text == (
            "raised inner brows, widened eyes, wrinkled nose, lips strongly pushed forward, lips strongly parted"
        )

    def test_numbers_are_deviations_rounded_to_hundredths_of_millimetres(self):
        own = {"mouth_width": 48.0, "chin_drop": 100.0, "nose_length": 43.0}
        face = {"mouth_width": 50.12345, "chin_drop": 99.999, "nose_length": 41.5}
        description = describe(face, own)
        assert description.reference == "subject"
        assert str(description.numbers) == "{'mouth_width': 2.12, 'chin_drop': 0.0, 'nose_length': -1.5}"

    def test_measures_missing_in_the_reference_are_ignored(self):
        own = {name: value for name, value in POPULATION.items() if name != "inner_brow_height"}
        description = describe(shift_feature("{}raised inner brows", 1.0), own)
        assert description.text == RELAXED and description.numbers.keys() == own.keys()

    def test_reference_without_common_measures_falls_back_to_the_population(self):
        face = {"inner_brow_height": POPULATION["inner_brow_height"] + 4}
        description = describe(face, {"mouth_width": 50.0})
        assert description == describe(face, None)
        assert description.reference == "population" and description.numbers == {"inner_brow_height": 4.0}

    def test_high_brows_are_named_only_relative_to_the_population(self):
        own = shift_feature("{}raised inner brows", 0.8)
        assert describe(own, own).text == RELAXED
        assert describe(own, None).text == "raised inner brows"

    def test_empty_measures_are_rejected(self):
        with pytest.raises(ValueError, match="no measures"):
            describe({}, None)

    @given(st.dictionaries(st.sampled_from(sorted(POPULATION)), st.floats(-30, 30), min_size=1), st.booleans())
    def test_caption_depends_on_the_numbers_only(self, deviations, own):
        face = {name: POPULATION[name] + deviation for name, deviation in deviations.items()}
        description = describe(face, POPULATION if own else None)
        again = {name: POPULATION[name] + number for name, number in description.numbers.items()}
        assert describe(again, POPULATION if own else None) == description
        assert 1 <= len(description.text.split(", ")) <= MAX_PHRASES
