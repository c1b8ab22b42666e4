"""Renders over shard sets of schema version 2: packed again, not rendered, to the bytes of a new render."""

import shutil
from pathlib import Path

import pytest

from helpers.old_format import interrupt, to_version_2
from helpers.trees import contents
from smile_pipe.pipeline.render import build, local_job, stage
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.pipeline.render.plan import FILES, OLD_FORMAT, RenderPlan
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.verify import verify_shards


def config(data: Path, out: Path, **options) -> RenderConfig:
    return RenderConfig(**{"data_dir": data, "out": out, "size": 32, "samples_per_shard": 3, **options})


def render(data: Path, out: Path, **options) -> RenderPlan:
    """Render without Ray and return the plan, which is reported before anything is written."""
    plans: list[RenderPlan] = []
    before = contents(out) if out.exists() else {}

    def on_plan(plan: RenderPlan) -> None:
        assert not out.exists() or {n: c for n, c in contents(out).items() if n != ".lock"} == before
        plans.append(plan)

    stage.run(config(data, out, **options), on_plan=on_plan)
    return plans[0]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "is_connected", lambda: False)
    monkeypatch.setattr(stage, "ray_session", lambda address: pytest.fail("Ray was started"))


@pytest.fixture(scope="module")
def faces(faces_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of one subject; those of the third shard are no scans."""
    root = tmp_path_factory.mktemp("faces")
    subject = min(path for path in faces_dir.iterdir() if path.is_dir())
    shutil.copytree(subject, root / subject.name)
    sorted(root.rglob("*.wrl"))[6].write_text("no mesh at all")
    return root


@pytest.fixture(scope="module")
def fresh(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A render of the faces by this release."""
    out = tmp_path_factory.mktemp("rendered") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "is_connected", lambda: False)
        stage.run(config(faces, out))
    return out


@pytest.fixture
def old(fresh: Path, tmp_path: Path) -> Path:
    """The same as an earlier release would have written it."""
    return to_version_2(Path(shutil.copytree(fresh, tmp_path / "shards")))


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_job, "split_into_units", lambda *arguments: pytest.fail("rendered"))


def test_the_old_set_differs_from_the_new_one_only_in_the_order_of_members(old, fresh):
    before, after = contents(old), contents(fresh)
    # The third shard has failures only, so it is no file.
    assert {name for name in after if before[name] != after[name]} == {
        "manifest.json",
        "index.parquet",
        "shards/000000.tar",
        "shards/000001.tar",
    }
    assert all(sorted(before[f"shards/00000{n}.tar"]) == sorted(after[f"shards/00000{n}.tar"]) for n in (0, 1))
    assert [ShardManifest.read(root / "manifest.json").schema_version for root in (old, fresh)] == [2, 3]
    assert not [problem for _, problems in verify_shards(ShardSet.open(str(old))) for problem in problems]


@pytest.mark.parametrize("is_interrupted", [False, True], ids=["finished", "interrupted"])
def test_samples_are_packed_again_to_the_bytes_of_a_new_render(old, fresh, faces, is_interrupted, no_rendering):
    if is_interrupted:
        interrupt(old)
    plan = render(faces, old)
    assert (plan.num_to_render, plan.num_to_rewrite, plan.num_to_copy) == (0, 0, 6)
    assert plan.reasons == {OLD_FORMAT: 6}
    # There is nothing to pack of failures.
    assert ([task.name for task in plan.tasks], [record.name for record in plan.kept], plan.removed) == (
        ["000000.tar", "000001.tar"],
        ["000002.tar"],
        (),
    )
    assert contents(old) == contents(fresh)
    assert stage.plan(config(faces, old)).is_done


def test_a_set_that_is_packed_in_part_is_continued(old, fresh, faces, no_rendering):
    first, second = stage.plan(config(faces, old)).tasks
    output, settings = RenderOutput(old), config(faces, old).resolve()
    output.begin(())
    fingerprints = SampleFingerprints.of(settings, "bu3dfe")
    build.build_shard(first, [], config(faces, old).data_dir, settings, fingerprints, output)
    plan = render(faces, old)
    assert [task.name for task in plan.tasks] == [second.name] and plan.reasons == {OLD_FORMAT: 3}
    assert contents(old) == contents(fresh)


def test_changed_samples_are_rendered_and_the_others_packed_again(old, faces, tmp_path):
    changed = Path(shutil.copytree(faces, tmp_path / "changed"))
    mesh = min(changed.rglob("*.wrl"))
    mesh.write_text(mesh.read_text() + "# changed\n")
    plan = render(changed, old)
    assert (plan.num_to_render, plan.num_to_copy) == (1, 5)
    assert plan.reasons == {FILES: 1, OLD_FORMAT: 5}
    render(changed, tmp_path / "fresh")
    assert contents(old) == contents(tmp_path / "fresh")


def test_changed_texts_are_written_around_the_images_of_the_old_format(old, faces, tmp_path):
    plan = render(faces, old, text="geometry")
    # The failure is tried again, as its fingerprint has the source of the text too.
    assert (plan.num_to_render, plan.num_to_rewrite, plan.num_to_copy) == (1, 6, 0)
    render(faces, tmp_path / "fresh", text="geometry")
    assert contents(old) == contents(tmp_path / "fresh")
