"""The output directory of a render: what lies in it, what it tells the next run, and what is not taken for one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.worlds import KEYS, World, new_world, rendered_world
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import read_failures, read_index, write_failures, write_index


@pytest.fixture
def world(tmp_path) -> World:
    return new_world(tmp_path)


@pytest.fixture
def rendered(tmp_path) -> World:
    return rendered_world(tmp_path)


def test_a_directory_holds_nothing_but_the_contract_after_a_run(rendered):
    shards = {f"shards/00000{number}.tar" for number in range(3)}
    assert rendered.content().keys() == {"README.md", "manifest.json", "index.parquet", "failures.parquet", *shards}


def test_a_directory_can_be_read_back_as_it_was_made(world):
    plan = world.plan()
    world.output.begin(plan.removed)
    made = [world.make(task, failing=[KEYS[4]]) for task in plan.tasks]
    assert world.output.read_records() == made
    world.finish(made)
    assert world.output.read_records() == made


def test_a_directory_that_does_not_exist_can_be_made(tmp_path):
    RenderOutput(tmp_path / "a/b/c").check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_a_run_has_only_just_begun_is_a_renders(world):
    world.output.begin(())
    world.output.check_writable()


def test_a_directory_of_something_else_is_refused_and_one_that_is_a_file_too(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not of a render"):
        RenderOutput(tmp_path).check_writable()
    with pytest.raises(UsageError, match="is a file"):
        RenderOutput(tmp_path / "thesis.tex" / "out").check_writable()


def test_a_directory_keeps_files_of_other_names_beside_its_shards(rendered):
    (rendered.out / "shards/2024-backup.tar").touch()
    rendered.settings = "settings-2"
    assert rendered.plan().removed == ()
    rendered.render()
    assert (rendered.out / "shards/2024-backup.tar").exists()


@pytest.mark.parametrize("table", ["index.parquet", "failures.parquet"])
def test_a_directory_without_one_of_its_tables_is_refused_by_its_name(rendered, table):
    (rendered.out / table).unlink()
    with pytest.raises(UsageError, match=table):
        rendered.plan()


class TestNamesThatLeadOut:
    """Where a directory was sent by somebody else, what it calls its shards is not to be believed."""

    NAME = "../../victim"

    @pytest.fixture
    def victim(self, rendered) -> Path:
        """A file beside the directory; of what is there no sample is wanted any more."""
        victim = rendered.out.parent / "victim"
        victim.write_text("precious")
        rendered.samples.clear()
        rendered.add("F0009_HA")
        return victim

    def call_a_shard_so(self, rendered: World, file: str) -> None:
        path = rendered.out / file
        if file == "index.parquet":
            write_index(path, [replace(row, shard=self.NAME) for row in read_index(path)])
        elif file == "failures.parquet":
            write_failures(path, [row.model_copy(update={"shard": self.NAME}) for row in read_failures(path)])
        else:
            manifest = json.loads(path.read_bytes())
            manifest["shards"][0]["name"] = self.NAME
            path.write_text(json.dumps(manifest))

    def read_records(self, rendered: World) -> dict[str, dict]:
        """The receipts of a run that is begun anew, by the names of their files."""
        rendered.output.begin(())
        return {path.name: json.loads(path.read_bytes()) for path in rendered.output.progress.glob("*.json")}

    @pytest.mark.parametrize("file", ["manifest.json", "index.parquet", "failures.parquet"])
    def test_are_refused_before_anything_is_removed_or_written(self, rendered, victim, file):
        self.call_a_shard_so(rendered, file)
        before = rendered.content()
        with pytest.raises(UsageError, match=rf"{file}: .*(shards\.0\.name|names the shard)"):
            rendered.render()
        assert rendered.content() == before and victim.read_text() == "precious"
        assert sorted(path.name for path in rendered.out.parent.iterdir()) == ["data", "out", "victim"]

    def test_make_a_receipt_none(self, rendered, victim):
        record = self.read_records(rendered)["000000.tar.json"] | {"name": self.NAME}
        (rendered.output.progress / f"{victim.name}.json").write_text(json.dumps(record))
        assert self.NAME not in rendered.render().removed and victim.read_text() == "precious"

    @pytest.mark.parametrize("part", ["entry", "rows", "failures"])
    def test_make_a_receipt_none_also_within_it(self, rendered, part):
        about = next(record for record in self.read_records(rendered).values() if record[part])
        if part == "entry":
            about["entry"]["name"] = self.NAME
        else:
            about[part][0]["shard"] = self.NAME
        (rendered.output.progress / f"{about['name']}.json").write_text(json.dumps(about))
        assert about["name"] not in {record.name for record in rendered.output.read_records()}


def test_a_receipt_in_the_file_of_another_one_is_none(rendered):
    rendered.output.begin(())
    first = rendered.output.progress / "000000.tar.json"
    first.rename(rendered.output.progress / "000001.tar.json")
    assert [record.name for record in rendered.output.read_records()] == ["000002.tar"]
