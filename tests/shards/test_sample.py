"""The sample codec: names of members, round trips, and invalid members."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.samples import make_sample, make_timeline
from smile_pipe.pipeline.rendering.cameras import View
from smile_pipe.shards.images import CHANNELS
from smile_pipe.shards.sample import KEY, SampleError, from_members, to_members

keys = st.from_regex(KEY, fullmatch=True)
views = st.lists(st.from_regex(r"[a-z0-9_-]{1,40}", fullmatch=True), min_size=1, max_size=3, unique=True)
channels = st.sets(st.sampled_from(CHANNELS), min_size=1).map(lambda chosen: [c for c in CHANNELS if c in chosen])


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    return dict(to_members(make_sample("a")))


def changed_record(members: dict[str, bytes], **changes) -> dict[str, bytes]:
    return members | {"a.json": json.dumps(json.loads(members["a.json"]) | changes).encode()}


@given(keys, views, channels, st.text())
def test_sample_round_trip_for_any_key_views_channels_and_text(key, names, chosen, text):
    sample = make_sample(key, views=[View(name=name) for name in names], channels=chosen, size=4, text=text or " ")
    assert from_members(dict(to_members(sample))) == sample


@pytest.mark.parametrize(("labels", "written"), [({}, b'"labels":{},'), ({"sex": "F"}, b'"labels":{"sex":"F"},')])
def test_labels_round_trip_is_exact_with_and_without_labels(labels, written):
    sample = make_sample("a")
    members = dict(to_members(replace(sample, record=sample.record.model_copy(update={"labels": labels}))))
    assert written in members["a.json"]
    assert dict(to_members(from_members(members))) == members


def test_each_image_of_the_record_is_one_member():
    sample = make_sample("a", views=[View(name="right"), View(name="front")], channels=("rgb", "depth"))
    images = {f"a.{view}.{name}" for view in ("front", "right") for name in ("rgb.jpg", "depth.png")}
    assert dict(to_members(sample)).keys() == {"a.json", "a.txt"} | images


@pytest.mark.parametrize(
    ("temporal", "moments"), [("frames", ["00", "01"]), ("dynamic", ["dynamic"]), ("both", ["00", "01", "dynamic"])]
)
def test_sequence_has_images_per_frame_or_a_dynamic_image_or_both(temporal, moments):
    timeline = make_timeline(2, temporal)
    sample = make_sample("a", channels=("rgb", "depth"), timeline=timeline, views=[View(name="front")])
    members = dict(to_members(sample))
    expected = [f"a.front.rgb.{m}.{'png' if m == 'dynamic' else 'jpg'}" for m in moments]
    assert [*members] == ["a.json", "a.txt", *expected, *(f"a.front.depth.{m}.png" for m in moments)]
    assert from_members(members) == sample


def test_image_names_of_a_long_sequence_sort_in_time_order():
    sample = make_sample("a", channels=("rgb",), size=2, views=[View(name="front")], timeline=make_timeline(30))
    long = sample.record.timeline.model_copy(update={"frames": tuple(range(101))})
    assert long.moments[0] == "000" and list(long.moments) == sorted(long.moments)


@pytest.mark.parametrize(("level", "written"), [(None, 0), (4, 4)])
def test_missing_level_is_written_as_0(level, written):
    members = dict(to_members(make_sample("a", level=level)))
    assert json.loads(members["a.json"])["level"] == written
    assert from_members(members).record.level == level


def test_frame_of_an_older_record_lacks_points_and_residual(members):
    frame = json.loads(members["a.json"])["frame"]
    assert (frame.pop("num_points"), frame.pop("residual")) == (0, 0.0)
    assert from_members(changed_record(members, frame=frame)) == from_members(members)


def test_the_order_of_members_does_not_matter_when_they_are_read(members):
    assert from_members(dict(reversed(members.items()))) == make_sample("a")


def test_the_record_is_one_line_of_json_with_sorted_keys(members):
    text = members["a.json"].decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a b", "é", "a\n", "x" * 81])
def test_invalid_key_is_refused(key):
    with pytest.raises(SampleError, match="invalid key"):
        list(to_members(make_sample(key)))


def test_images_that_differ_from_the_record_are_not_written():
    sample = make_sample("a")
    missing = {name: image for name, image in sample.images.items() if name != ("left", "depth")}
    with pytest.raises(SampleError, match=r"left\.depth"):
        list(to_members(replace(sample, images=missing)))
    with pytest.raises(SampleError, match=r"top\.rgb"):
        list(to_members(replace(sample, images={**sample.images, ("top", "rgb"): b""})))


@pytest.mark.parametrize("name", [name for name, _ in to_members(make_sample("a"))])
def test_missing_member_is_refused(members, name):
    with pytest.raises(SampleError, match=name.removeprefix("a.").replace(".", r"\.")):
        from_members({n: content for n, content in members.items() if n != name})


@pytest.mark.parametrize("name", ["a.top.rgb.jpg", "a.front.rgb.png", "a.cls", "a.front.rgb.pkl", "a.pyd", "a", "a."])
def test_unexpected_member_is_refused(members, name):
    with pytest.raises(SampleError, match=r"images of record and .* differ"):
        from_members(members | {name: b"x"})


@pytest.mark.parametrize("more", [{"b.json": b"{}"}, {"b.front.rgb.jpg": b""}, {"b": b""}])
def test_members_of_two_keys_are_refused(members, more):
    with pytest.raises(SampleError, match="are not one sample"):
        from_members(members | more)


def test_empty_members_are_refused():
    with pytest.raises(SampleError, match="are not one sample"):
        from_members({})


def test_record_with_another_key_is_refused(members):
    with pytest.raises(SampleError, match=r"a\.json contains the key 'b'"):
        from_members(changed_record(members, key="b"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema_version": 1}, "schema_version"),
        ({"timeline": {"frames": [0, 1]}}, "timeline"),
        ({"level": "high"}, "level"),
        ({"color": "red"}, "color"),
        ({"cameras": [{"name": "front"}]}, "cameras"),
        ({"text_source": "guess"}, "text_source"),
        ({"channels": ["rgb", "pkl"]}, "unknown channel 'pkl'"),
    ],
)
def test_invalid_record_field_is_named(members, changes, named):
    with pytest.raises(SampleError, match=r"a\.json") as error:
        from_members(changed_record(members, **changes))
    assert named in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff", b"cos\nsystem\n(S'true'\ntR."])
def test_record_that_is_not_a_json_object_is_refused(members, content):
    with pytest.raises(SampleError, match=r"a\.json"):
        from_members(members | {"a.json": content})


def test_prompt_that_is_not_utf8_is_refused(members):
    with pytest.raises(SampleError, match=r"a\.txt is not UTF-8"):
        from_members(members | {"a.txt": b"\xff\xfe"})
