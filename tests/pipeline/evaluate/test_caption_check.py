"""Caption check: exchanged phrases, a plain loop, and embeddings that know everything or nothing."""

import zlib

import numpy as np
import pytest

from smile_pipe.pipeline.captions.action_units import with_intensity
from smile_pipe.pipeline.captions.exchanges import caption_text, lacking_features, named_features
from smile_pipe.pipeline.captions.geometry import FEATURES, POPULATION, describe
from smile_pipe.pipeline.evaluate import caption_check as module
from smile_pipe.pipeline.evaluate.answers import mean_interval
from smile_pipe.pipeline.evaluate.caption_check import (
    CaptionSpace,
    caption_check,
    draw_adverb_exchanges,
    draw_exchanges,
    region_of,
)
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import Caption

NUM = 40
SUBJECTS = [f"F{n % 8:04d}" for n in range(NUM)]
LEVELS = [n % 4 + 1 for n in range(NUM)]


def captions() -> list[Caption]:
    rng = np.random.default_rng(0)
    return [
        Caption(
            source="geometry",
            reference="neutral",
            numbers={name: round(float(rng.normal(0, 3)), 2) for name in POPULATION},
        )
        for _ in range(NUM)
    ]


def text_of(caption: Caption) -> str:
    """The caption as it was written at render time."""
    reference = dict.fromkeys(POPULATION, 0.0)
    return describe(dict(caption.numbers), reference).text


def words_of(text: str) -> list[str]:
    return [part.strip() for part in text.replace(" and ", ",").split(",") if part.strip()]


class Oracle:
    """A text is the sum of its phrases, and a face is its caption."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def __call__(self, texts) -> np.ndarray:
        vectors = np.zeros((len(texts), 400))
        for row, text in zip(vectors, texts, strict=True):
            for word in words_of(text):
                row[self.names.setdefault(word, len(self.names))] = 1
        return vectors


def noise(texts) -> np.ndarray:
    return np.array([np.random.default_rng(zlib.crc32(text.encode())).normal(size=64) for text in texts])


def main_parts(answers) -> dict[str, float]:
    return {part.group: part.accuracy for part in answers.score.parts if part.name == "all"}


def test_named_phrases_are_those_of_the_caption():
    for caption in captions():
        named = named_features(caption)
        assert caption_text(named) == text_of(caption)


def test_a_false_phrase_scores_under_half_of_its_threshold():
    for caption in captions():
        for number in lacking_features(caption):
            assert FEATURES[number].score(caption.numbers) < FEATURES[number].threshold / 2
        assert not set(lacking_features(caption)) & set(named_features(caption))


def test_an_exchange_changes_one_phrase_and_keeps_the_order():
    given = captions()
    exchanges = draw_exchanges(given, 0)
    assert len(exchanges) == sum(len(named_features(caption)) for caption in given)
    order = [feature.phrase.replace("{}", "") for feature in FEATURES]
    for each in exchanges:
        assert each.true == text_of(given[each.face])
        false = each.phrases[each.false_at]
        kept = [phrase for phrase in each.phrases if phrase != false]
        assert len(kept) == len(named_features(given[each.face])) - 1
        assert all(phrase in each.true for phrase in kept) and false not in each.true
        plain = [phrase.replace("slightly ", "").replace("strongly ", "") for phrase in each.phrases]
        assert [order.index(phrase) for phrase in plain] == sorted(order.index(phrase) for phrase in plain)


def test_an_exchanged_adverb_is_the_opposite_one():
    exchanges = draw_adverb_exchanges(captions(), 0)
    assert exchanges
    for each in exchanges:
        changed = each.phrases[each.false_at]
        assert ("slightly" in changed) != ("strongly" in changed)
        opposite = changed.replace("slightly", "X").replace("strongly", "slightly").replace("X", "strongly")
        assert opposite in each.true


def test_a_false_phrase_takes_the_adverb_of_the_replaced_one():
    adverbs = {"slightly": module._WEAK, "strongly": module._FULL}
    exchanges = draw_exchanges(captions(), 0)
    assert len({each.strength for each in exchanges}) == 3
    for each in exchanges:
        false = each.phrases[each.false_at]
        named = named_features(captions()[each.face])
        true = [with_intensity(FEATURES[n].phrase, strength) for n, strength in named.items()]
        (replaced,) = {*true} - {*each.phrases}
        for phrase in (false, replaced):
            assert next((s for word, s in adverbs.items() if word in phrase), module._MIDDLE) == each.strength
        assert replaced.replace("slightly ", "").replace("strongly ", "") == each.replaced.phrase.replace("{}", "")


def test_thresholds_are_higher_where_a_caption_is_relative_to_the_population():
    given = [caption.model_copy(update={"reference": "population"}) for caption in captions()]
    own, differences = captions(), 0
    for caption, other in zip(given, own, strict=True):
        measures = {name: POPULATION[name] + value for name, value in caption.numbers.items()}
        assert caption_text(named_features(caption)) == describe(measures, None).text
        lacking = [n for n, f in enumerate(FEATURES) if f.score(caption.numbers) < f.minimum(has_reference=False) / 2]
        assert lacking_features(caption) == lacking
        differences += lacking != lacking_features(other)
    assert differences


def test_what_is_not_measured_is_not_lacking():
    caption = captions()[0]
    numbers = {name: value for name, value in caption.numbers.items() if name != "inner_brow_height"}
    lacking = lacking_features(caption.model_copy(update={"numbers": numbers}))
    expected = [n for n in lacking_features(caption) if "inner_brow_height" not in FEATURES[n].weights]
    assert lacking == expected != lacking_features(caption)


def test_choice_and_place_are_those_of_a_plain_loop():
    given = captions()
    exchanges = draw_exchanges(given, 0)
    faces = np.random.default_rng(1).normal(size=(NUM, 64))
    space = CaptionSpace(faces, noise, exchanges)

    def cosine(face: np.ndarray, text: str) -> float:
        vector = noise([text])[0]
        return sum(face * vector) / np.sqrt(sum(face * face) * sum(vector * vector))

    for each in exchanges[:25]:
        z = faces[each.face]
        assert space.prefers_true(each) == (cosine(z, each.true) > cosine(z, each.text))
        mean = sum(face / np.sqrt(sum(face * face)) for face in faces) / NUM
        is_nearer = cosine(mean, each.true) > cosine(mean, each.text)
        assert space.prefers_true(each, of_mean_face=True) == is_nearer
        without = [cosine(z, text) for text in each.without_each]
        assert space.locate(each) == without.index(max(without))


def test_oracle_answers_everything():
    given, embed = captions(), Oracle()
    faces = embed([text_of(caption) for caption in given])
    scores = main_parts(caption_check(faces, given, SUBJECTS, LEVELS, embed, 0))
    assert scores == {"choice": 1, "locate": 1, "choice of the adverb": 1}


def test_random_embeddings_are_at_chance():
    answers = caption_check(np.random.default_rng(1).normal(size=(NUM, 64)), captions(), SUBJECTS, LEVELS, noise, 0)
    for part in answers.score.parts:
        if part.name == "all":
            assert part.accuracy == pytest.approx(part.chance, abs=0.17)
            assert part.interval is not None and part.interval[0] <= part.accuracy <= part.interval[1]


def test_parts_are_those_of_a_plain_loop():
    given, faces = captions(), np.random.default_rng(1).normal(size=(NUM, 64))
    exchanges, adverbs = draw_exchanges(given, 0), draw_adverb_exchanges(given, 0)
    parts = {
        (part.group, part.name): part for part in caption_check(faces, given, SUBJECTS, LEVELS, noise, 0).score.parts
    }
    for group, asked in (("choice", exchanges), ("choice of the adverb", adverbs)):
        space, whose = CaptionSpace(faces, noise, asked), [SUBJECTS[each.face] for each in asked]
        hits = np.array([space.prefers_true(each) for each in asked], float)
        assert parts[group, "all"].accuracy == hits.mean()
        assert parts[group, "all"].interval == mean_interval(hits, whose, 0)
        simple = np.mean([space.prefers_true(each, of_mean_face=True) for each in asked])
        assert parts[group, "all"].baseline == simple
    # A caption of one phrase has no place to find.
    several = [each for each in exchanges if len(each.phrases) > 1]
    assert len(several) < len(exchanges)
    assert parts["locate", "all"].num_questions == len(several)
    assert parts["locate", "all"].chance == pytest.approx(np.mean([1 / len(each.phrases) for each in several]))
    for level in set(LEVELS):
        count = sum(LEVELS[each.face] == level for each in exchanges)
        assert parts["choice", f"level: {level}"].num_questions == count


def test_groups_of_a_kind_have_all_questions():
    answers = caption_check(np.eye(NUM, 64), captions(), SUBJECTS, LEVELS, noise, 0)
    choices = {part.name: part.num_questions for part in answers.score.parts if part.group == "choice"}
    for kind in ("region", "adverb", "level", "phrase"):
        assert sum(num for name, num in choices.items() if name.startswith(f"{kind}: ")) == choices["all"]


def test_regions_are_those_of_the_measures():
    regions = {next(iter(feature.weights)): region_of(feature) for feature in FEATURES}
    assert regions["inner_brow_gap"] == regions["outer_brow_height"] == "brows"
    assert regions["eye_opening"] == "eyes" and regions["nostril_lift"] == "nose"
    assert regions["mouth_opening"] == regions["chin_drop"] == "mouth and chin"


def test_captions_of_other_sources_are_not_asked():
    coded = Caption(source="au", reference="none", numbers={"AU12": 0.8})
    same_numbers = captions()[0].model_copy(update={"source": "au"})
    assert draw_exchanges([same_numbers], 0) == draw_adverb_exchanges([same_numbers], 0) == []
    with pytest.raises(UsageError, match="measured on its mesh"):
        caption_check(np.eye(2, 4), [coded, None], ["a", "b"], [1, 1], noise, 0)


def test_of_many_questions_some_are_drawn(monkeypatch):
    monkeypatch.setattr(module, "MAX_QUESTIONS", 7)
    drawn = draw_exchanges(captions(), 0)
    assert len(drawn) == 7 and drawn == draw_exchanges(captions(), 0) != draw_exchanges(captions(), 1)
