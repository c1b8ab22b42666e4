"""Plans: which shards are kept, rebuilt or removed after a change. Without Ray."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import worlds
from helpers.worlds import KEYS, World, new_world, rendered_world
from smile_pipe.pipeline.datasets.adapter import ScanFiles
from smile_pipe.pipeline.render import fingerprints
from smile_pipe.pipeline.render.fingerprints import read_source, stat_source
from smile_pipe.pipeline.render.plan import (
    FILES,
    LABELS,
    NEW,
    REMOVED,
    RETRIED,
    SETTINGS,
    SHARD_GONE,
    ShardTask,
    plan_shards,
)
from smile_pipe.shards.index import IndexRow, IndexRows


@pytest.fixture
def world(tmp_path) -> World:
    return new_world(tmp_path)


@pytest.fixture
def rendered(tmp_path) -> World:
    return rendered_world(tmp_path)


def names(tasks: Sequence[ShardTask]) -> dict[str, list[str]]:
    """Keys to render by shard."""
    return {task.name: [sample.key for sample in task.samples] for task in tasks}


def work(tasks: Sequence[ShardTask]) -> dict[str, tuple[list[str], list[str], list[str]]]:
    """Keys to render, to rewrite and to copy by shard."""
    return {
        task.name: (
            [sample.key for sample in task.samples],
            [again.row.key for again in task.reused if again.source is not None],
            [again.row.key for again in task.reused if again.source is None],
        )
        for task in tasks
    }


def write(world: World, path: str, text: str) -> None:
    (world.data / path).write_text(text)
    os.utime(world.data / path, ns=(1, stat_source(world.data, path)[1] + 1_000_000))


def touch(world: World, path: str) -> None:
    os.utime(world.data / path, ns=(1, stat_source(world.data, path)[1] + 1_000_000))


def write_with_same_time(world: World, path: str, text: str) -> None:
    status = os.stat(world.data / path)
    (world.data / path).write_text(text)
    os.utime(world.data / path, ns=(status.st_atime_ns, status.st_mtime_ns))


def record_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """A list that gets the path of each later call of a function of `fingerprints`."""
    paths: list[str] = []
    function = getattr(fingerprints, name)
    monkeypatch.setattr(fingerprints, name, lambda root, path: paths.append(path) or function(root, path))
    return paths


def naming(world: World, row: IndexRow, path: str) -> IndexRow:
    """The index row of a sample whose mesh names the texture `path`."""
    sources = (*row.sources, replace(read_source(world.data, path), named=True))
    images = world.fingerprints.images(world.samples[row.key], sources)
    fingerprint = world.fingerprints.whole(world.samples[row.key], images, sources)
    return replace(row, sources=sources, images=images, fingerprint=fingerprint)


def test_first_plan_has_all_samples_sorted_by_key(world):
    plan = world.plan()
    assert names(plan.tasks) == {"000000.tar": KEYS[:3], "000001.tar": KEYS[3:6], "000002.tar": KEYS[6:]}
    assert (plan.kept, plan.removed, plan.reasons, plan.num_to_render) == ((), (), {"new": 8}, 8)


K0, K1, K2 = KEYS[:3], KEYS[3:6], KEYS[6:]
# KEYS[4] failed, so there is nothing of it to copy.
GOOD1 = [KEYS[3], KEYS[5]]


@pytest.mark.parametrize(
    ("change", "made", "reasons"),
    [
        pytest.param(lambda w: None, {}, {}, id="nothing"),
        pytest.param(
            lambda w: write_with_same_time(w, f"{KEYS[0]}.wrl", f"{KEYS[0]}.WRL AS IT WAS"),
            {},
            {},
            id="same size and time, for files are not read",
        ),
        pytest.param(
            lambda w: write_with_same_time(w, f"{KEYS[0]}.wrl", "longer than it was before, by far"),
            {"000000.tar": ([KEYS[0]], [], KEYS[1:3])},
            {FILES: 1},
            id="mesh of another size and the same time",
        ),
        pytest.param(lambda w: w.add("G0001_HA"), {"000003.tar": (["G0001_HA"], [], [])}, {NEW: 1}, id="one added"),
        pytest.param(
            lambda w: w.add("A0001_HA", "F0002_AN", "G0001_HA", "G0002_HA"),
            {"000003.tar": (["A0001_HA", "F0002_AN", "G0001_HA"], [], []), "000004.tar": (["G0002_HA"], [], [])},
            {NEW: 4},
            id="scans added before, between and after",
        ),
        pytest.param(lambda w: touch(w, f"{KEYS[3]}.wrl"), {}, {}, id="mesh touched"),
        pytest.param(lambda w: touch(w, f"{KEYS[4]}.wrl"), {}, {}, id="failed mesh touched"),
        pytest.param(
            lambda w: write(w, f"{KEYS[3]}.wrl", "other"),
            {"000001.tar": ([KEYS[3]], [], [KEYS[5]])},
            {FILES: 1},
            id="mesh changed",
        ),
        pytest.param(
            lambda w: write(w, f"{KEYS[7]}.bmp", "longer than it was before, by far"),
            {"000002.tar": ([KEYS[7]], [], [KEYS[6]])},
            {FILES: 1},
            id="texture changed",
        ),
        pytest.param(
            lambda w: (w.data / f"{KEYS[0]}.bmp").unlink(),
            {"000000.tar": ([KEYS[0]], [], KEYS[1:3])},
            {FILES: 1},
            id="texture gone, still named",
        ),
        pytest.param(
            lambda w: w.change(KEYS[0], texture=None),
            {"000000.tar": ([KEYS[0]], [], KEYS[1:3])},
            {FILES: 1},
            id="texture no longer named",
        ),
        pytest.param(
            lambda w: w.change(KEYS[0], landmarks=f"{KEYS[1]}.bmp"),
            {"000000.tar": ([KEYS[0]], [], KEYS[1:3])},
            {FILES: 1},
            id="landmarks found",
        ),
        pytest.param(
            lambda w: write(w, f"{KEYS[4]}.wrl", "mended by its owner"),
            {"000001.tar": ([KEYS[4]], [], GOOD1)},
            {FILES: 1},
            id="failed scan mended",
        ),
        *(
            pytest.param(
                lambda w, field=field, value=value: w.change(KEYS[1], **{field: value}),
                {"000000.tar": ([], [KEYS[1]], [KEYS[0], KEYS[2]])},
                {LABELS: 1},
                id=f"{field} changed",
            )
            for field, value in (
                ("subject", "F0009"),
                ("expression", "SU"),
                ("level", None),
                ("labels", {**worlds.LABELS, "age": "31"}),
                ("action_units", {"AU12": 1.0}),
            )
        ),
        pytest.param(
            lambda w: setattr(w, "prompts", "prompts-2"),
            {"000000.tar": ([], K0, []), "000001.tar": ([KEYS[4]], GOOD1, []), "000002.tar": ([], K2, [])},
            {LABELS: 7, FILES: 1},
            id="prompts changed",
        ),
        pytest.param(
            lambda w: w.samples.pop(KEYS[7]), {"000002.tar": ([], [], [KEYS[6]])}, {REMOVED: 1}, id="scan removed"
        ),
        pytest.param(
            lambda w: w.samples.pop(KEYS[4]), {"000001.tar": ([], [], GOOD1)}, {REMOVED: 1}, id="failed scan removed"
        ),
        pytest.param(
            lambda w: (w.out / "shards/000001.tar").unlink(),
            {"000001.tar": (K1, [], [])},
            {SHARD_GONE: 3},
            id="shard missing",
        ),
        pytest.param(
            lambda w: (w.out / "shards/000001.tar").write_bytes(b"cut"),
            {"000001.tar": (K1, [], [])},
            {SHARD_GONE: 3},
            id="shard cut off",
        ),
    ],
)
def test_a_change_decides_what_is_rendered_rewritten_and_copied(
    rendered: World, change: Callable[[World], object], made: dict, reasons: dict[str, int]
):
    change(rendered)
    plan = rendered.plan()
    assert work(plan.tasks) == made
    assert plan.reasons == reasons
    assert {record.name for record in plan.kept} == {f"00000{i}.tar" for i in range(3)} - made.keys()
    assert plan.removed == ()
    before = {
        name: (rendered.out / "shards" / name).stat().st_mtime_ns for name in sorted(rendered.output.shard_sizes())
    }
    rendered.render(failing=[KEYS[4]])
    after = {
        name: (rendered.out / "shards" / name).stat().st_mtime_ns for name in sorted(rendered.output.shard_sizes())
    }
    assert {name for name in before if before[name] != after.get(name)} <= made.keys()
    again = rendered.plan()
    assert again.is_done and not again.touched


@pytest.mark.parametrize("key", [KEYS[3], KEYS[4]], ids=["of a sample", "of a failure"])
def test_a_touched_file_is_read_once_and_its_new_time_is_stored(rendered, monkeypatch, key):
    touch(rendered, f"{key}.wrl")
    plan = rendered.plan()
    assert plan.is_done and plan.touched
    rendered.output.refresh(plan.kept)
    monkeypatch.setattr(
        "smile_pipe.pipeline.render.fingerprints.read_source", lambda root, path: pytest.fail(f"read {path}")
    )
    again = rendered.plan()
    assert again.is_done and not again.touched


def test_a_plan_without_work_stats_each_file_once_and_reads_none(world, monkeypatch):
    (world.data / "neutral.wrl").write_text("of both")
    for key in KEYS[:2]:
        world.change(key, neutral=ScanFiles("neutral.wrl"))
    world.render()
    looked_at = record_calls(monkeypatch, "stat_source")
    read = record_calls(monkeypatch, "read_source")
    assert world.plan().is_done
    assert sorted(looked_at) == sorted(path.name for path in world.data.iterdir()) and read == []


def test_only_the_changed_file_of_a_sample_is_read(rendered, monkeypatch):
    write(rendered, f"{KEYS[3]}.wrl", "other")
    read = record_calls(monkeypatch, "read_source")
    assert rendered.plan().num_to_render == 1 and read == [f"{KEYS[3]}.wrl"]


@pytest.mark.parametrize(
    ("change", "rendered_again", "touched"),
    [
        pytest.param(lambda w: None, [], False, id="as it was"),
        pytest.param(lambda w: touch(w, "skin.png"), [], True, id="touched"),
        pytest.param(lambda w: write(w, "skin.png", "other"), [KEYS[0]], False, id="changed"),
        pytest.param(lambda w: (w.data / "skin.png").unlink(), [KEYS[0]], False, id="gone"),
    ],
)
def test_changes_of_a_texture_named_by_the_mesh_are_noticed(world, change, rendered_again, touched):
    (world.data / "skin.png").write_text("named in the mesh")
    world.render()
    first, *others = world.output.read_records()
    world.output.refresh([replace(first, rows=(naming(world, first.rows[0], "skin.png"), *first.rows[1:])), *others])
    change(world)
    plan = world.plan()
    assert [sample.key for task in plan.tasks for sample in task.samples] == rendered_again
    assert plan.touched == touched


def test_a_texture_named_by_another_mesh_stays_a_file_of_its_own_sample(rendered):
    first, *others = rendered.output.read_records()
    row = naming(rendered, first.rows[1], f"{KEYS[0]}.bmp")
    rendered.output.refresh([replace(first, rows=(first.rows[0], row, *first.rows[2:])), *others])
    touch(rendered, f"{KEYS[0]}.wrl")
    plan = rendered.plan()
    assert plan.is_done and plan.touched
    own, naming_it = plan.kept[0].rows[:2]
    assert [file.named for file in own.sources] == [False, False]
    assert [file.named for file in naming_it.sources] == [False, False, True]


def test_another_neutral_scan_is_noticed_with_unchanged_files(world):
    for name in ("a.wrl", "b.wrl"):
        (world.data / name).write_text(f"neutral {name}")
    world.change(KEYS[0], neutral=ScanFiles("a.wrl"))
    world.render()
    world.change(KEYS[0], neutral=ScanFiles("b.wrl"))
    assert work(world.plan().tasks) == {"000000.tar": ([], [KEYS[0]], KEYS[1:3])}


def test_verify_sources_detects_changes_with_equal_size_and_time(rendered):
    write_with_same_time(rendered, f"{KEYS[0]}.wrl", f"{KEYS[0]}.WRL AS IT WAS")
    assert work(rendered.plan(verify_sources=True).tasks) == {"000000.tar": ([KEYS[0]], [], KEYS[1:3])}


def test_rows_of_shards_that_stay_as_they_are_are_not_kept_as_objects(rendered):
    touch(rendered, f"{KEYS[0]}.wrl")
    changed, *others = rendered.plan().kept
    assert isinstance(changed.rows, tuple) and all(isinstance(record.rows, IndexRows) for record in others)
    assert [record.name for record in others] == ["000001.tar", "000002.tar"]


def test_retry_failed_tries_unchanged_failures_again(rendered):
    plan = rendered.plan(retry_failed=True)
    assert work(plan.tasks) == {"000001.tar": ([KEYS[4]], [], GOOD1)} and plan.reasons == {RETRIED: 1}
    rendered.output.begin(plan.removed)
    made = [rendered.build(task) for task in plan.tasks]
    rendered.finish(sorted([*made, *plan.kept], key=lambda record: record.name))
    assert rendered.plan(retry_failed=True).is_done


def test_a_failure_that_is_not_retried_stays_in_a_rebuilt_shard(rendered):
    write(rendered, f"{KEYS[3]}.wrl", "other")
    (task,) = rendered.plan().tasks
    assert [failure.key for failure in task.failures] == [KEYS[4]]


def test_a_shard_without_samples_is_removed(rendered):
    for key in KEYS[3:6]:
        del rendered.samples[key]
    plan = rendered.plan()
    assert (plan.tasks, plan.removed, len(plan.kept)) == ((), ("000001.tar",), 2)
    rendered.render()
    assert sorted(rendered.output.shard_sizes()) == ["000000.tar", "000002.tar"]
    assert rendered.plan().removed == rendered.plan().tasks == ()


def test_changed_settings_rebuild_all_shards_and_remove_surplus_ones(rendered):
    rendered.settings = "settings-2"
    plan = rendered.plan(samples_per_shard=4)
    assert names(plan.tasks) == {"000000.tar": KEYS[:4], "000001.tar": KEYS[4:]}
    assert (plan.kept, plan.removed, plan.reasons) == ((), ("000002.tar",), {SETTINGS: 8})


def test_another_layout_rewrites_every_record(rendered):
    rendered.layout = "folder"
    plan = rendered.plan()
    assert (plan.num_to_rewrite, plan.num_to_render) == (7, 1)


def test_another_shard_size_moves_no_sample(rendered):
    rendered.add("G0001_HA", "G0002_HA")
    plan = rendered.plan(samples_per_shard=1)
    assert names(plan.tasks) == {"000003.tar": ["G0001_HA"], "000004.tar": ["G0002_HA"]}


def test_reasons_are_counted_separately(rendered):
    rendered.add("G0001_HA")
    rendered.change(KEYS[0], subject="F0009")
    write(rendered, f"{KEYS[7]}.wrl", "changed")
    assert rendered.plan().reasons == {LABELS: 1, FILES: 1, NEW: 1}


def test_a_shard_of_failures_has_no_file_and_is_not_tried_again(world):
    world.render(failing=KEYS[6:])
    assert sorted(world.output.shard_sizes()) == ["000000.tar", "000001.tar"]
    plan = world.plan()
    assert plan.tasks == () and len(plan.kept) == 3
    write(world, f"{KEYS[6]}.wrl", "mended")
    assert names(world.plan().tasks) == {"000002.tar": [KEYS[6]]}


class TestInterruptedRun:
    def interrupt(self, world: World, done: Sequence[int]) -> None:
        """Stop a run after it has built these of its tasks."""
        plan = world.plan()
        world.output.begin(plan.removed)
        for number in done:
            world.build(plan.tasks[number])

    @pytest.mark.parametrize("done", [[], [0], [0, 1], [1], [0, 2], [2]])
    def test_finished_shards_are_kept_and_the_result_is_the_same(self, world, tmp_path, done):
        self.interrupt(world, done)
        plan = world.plan()
        assert {record.name for record in plan.kept} == {f"00000{number}.tar" for number in done}
        assert plan.num_to_render == sum(
            len(KEYS[number * 3 : number * 3 + 3]) for number in range(3) if number not in done
        )
        world.render()
        resumed = world.content()
        shutil.rmtree(world.out)
        world.render()
        assert resumed == world.content()

    def test_tasks_are_sorted_by_shard_whatever_their_reasons(self, world):
        self.interrupt(world, [1])
        world.change(KEYS[4], subject="F0009")
        assert [task.name for task in world.plan().tasks] == ["000000.tar", "000001.tar", "000002.tar"]

    def test_old_shards_are_not_mistaken_for_shards_of_changed_settings(self, rendered):
        rendered.settings = "settings-2"
        self.interrupt(rendered, [1])
        plan = rendered.plan()
        assert [record.name for record in plan.kept] == ["000001.tar"]
        assert names(plan.tasks) == {"000000.tar": KEYS[:3], "000002.tar": KEYS[6:]}

    def test_changed_settings_can_be_reverted(self, rendered):
        before = rendered.settings
        rendered.settings = "settings-2"
        self.interrupt(rendered, [1])
        rendered.settings = before
        assert names(rendered.plan().tasks) == {"000001.tar": KEYS[3:6]}

    def test_an_unfinished_run_has_no_manifest(self, rendered):
        write(rendered, f"{KEYS[0]}.wrl", "changed")
        self.interrupt(rendered, [])
        assert not (rendered.out / "manifest.json").exists()
        assert [record.name for record in rendered.plan().kept] == ["000001.tar", "000002.tar"]

    def test_partial_files_of_a_killed_run_are_removed(self, world):
        self.interrupt(world, [0])
        (world.out / "shards/.000007.tar.tmp").write_bytes(b"half")
        world.render()
        assert not any(".tmp" in name for name in world.content())

    def test_a_shard_without_a_record_is_built_again(self, world):
        self.interrupt(world, [0, 1])
        (world.out / ".progress/000001.tar.json").unlink()
        plan = world.plan()
        assert names(plan.tasks) == {"000001.tar": KEYS[3:6], "000002.tar": KEYS[6:]}
        assert plan.reasons == {"new": 5}

    @pytest.mark.parametrize("content", [b"", b"{}", b'{"name": "000000.tar", "color": "red"}'])
    def test_an_unreadable_record_is_ignored(self, world, content):
        self.interrupt(world, [0])
        (world.out / ".progress/000000.tar.json").write_bytes(content)
        assert world.plan().num_to_render == 8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.sampled_from(KEYS), min_size=1), min_size=1, max_size=4), st.data())
def test_after_any_history_each_sample_is_in_one_shard_and_no_work_is_left(tmp_path_factory, history, data):
    world = World(tmp_path_factory.mktemp("world"))
    for wanted in history:
        world.samples.clear()
        world.add(*wanted)
        world.settings = data.draw(st.sampled_from(["settings-1", "settings-2"]))
        plan = world.plan()
        world.output.begin(plan.removed)
        for task in plan.tasks:
            if data.draw(st.booleans(), label=f"{task.name} is built before the run is interrupted"):
                world.build(task)
    world.render()
    plan = world.plan()
    assert (plan.tasks, plan.removed) == ((), ())
    assert sorted(sample.key for record in plan.kept for sample in record.samples) == sorted(world.samples)
    assert sorted(world.output.shard_sizes()) == [record.name for record in plan.kept]


def test_sequences_count_with_their_frames_when_shards_are_filled(tmp_path):
    world = new_world(tmp_path)
    weights = dict(zip(sorted(world.samples), (1, 1, 2, 5, 1, 1, 1, 1), strict=True))
    samples = [world.samples[key] for key in sorted(world.samples)]
    plan = plan_shards(world.data, samples, world.fingerprints, world.output, 4, lambda sample: weights[sample.key])
    assert [len(task.samples) for task in plan.tasks] == [3, 1, 4]
