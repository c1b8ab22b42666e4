"""Captions with a false phrase: what is exchanged, for what, and where nothing can be."""

import numpy as np
import pytest

from smile_pipe.pipeline.captions.exchanges import caption_text, exchange, false_caption, named_features, phrases_of
from smile_pipe.pipeline.captions.geometry import FEATURES, POPULATION, describe
from smile_pipe.shards.sample import Caption

REST = dict.fromkeys(POPULATION, 0.0)
SMILE = REST | {"lip_corner_height": 9.0, "mouth_width": 2.0, "lower_lid_height": 1.0}


def caption_of(numbers, source="geometry"):
    return Caption(source=source, reference="neutral", numbers=numbers)


def draws(numbers, num=300):
    text = describe(dict(numbers), REST).text
    return text, [false_caption(text, caption_of(numbers), np.random.default_rng(seed)) for seed in range(num)]


def test_one_phrase_is_exchanged_for_one_that_the_face_lacks():
    _, found = draws(SMILE)
    own = {"lip corners strongly pulled up", "slightly narrowed eyes"}
    assert set(phrases_of(named_features(caption_of(SMILE)))) == own
    lacking = [feature.phrase for feature in FEATURES if feature.score(SMILE) < feature.threshold / 2]
    seen = set()
    for changed in found:
        (kept,) = (phrase for phrase in own if phrase in changed)
        (gone,) = own - {kept}
        adverb = "strongly " if "strongly" in gone else "slightly "
        (new,) = (phrase for phrase in lacking if phrase.format(adverb) in changed)
        assert set(changed.replace(kept, "").replace(new.format(adverb), "")) <= set(" and,")
        seen.add((gone, new))
    # Each phrase is exchanged for every feature at rest in some draw.
    assert len(lacking) > 8 and len(seen) == 2 * len(lacking)


def test_phrases_keep_the_order_of_the_features_and_the_strength():
    assert list(exchange({4: 0.2, 8: 0.9}, 4, 11).items()) == [(8, 0.9), (11, 0.2)]


@pytest.mark.parametrize("caption", [None, caption_of(SMILE, "au"), caption_of(REST), caption_of({})])
def test_other_texts_stay_as_they_are(caption):
    assert false_caption("a happy face", caption, np.random.default_rng(0)) == "a happy face"


def test_a_text_that_is_not_the_caption_stays_as_it_is():
    assert false_caption("a happy face", caption_of(SMILE), np.random.default_rng(0)) == "a happy face"
    true = caption_text(named_features(caption_of(SMILE)))
    assert false_caption(true, caption_of(SMILE), np.random.default_rng(0)) != true
