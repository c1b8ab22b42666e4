"""The output directory of a render: its files, its records, and directories that are rejected."""

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


def test_records_are_read_back_during_and_after_a_run(world):
    plan = world.plan()
    world.output.begin(plan.removed)
    made = [world.build(task, failing=[KEYS[4]]) for task in plan.tasks]
    assert world.output.read_records() == made
    world.finish(made)
    assert world.output.read_records() == made


def test_checking_a_missing_directory_does_not_create_it(tmp_path):
    RenderOutput(tmp_path / "a/b/c").check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_a_run_that_just_started_is_writable(world):
    world.output.begin(())
    world.output.check_writable()


def test_directories_with_other_files_and_plain_files_are_rejected(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not of a render"):
        RenderOutput(tmp_path).check_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="is a file"):
        RenderOutput(tmp_path / "thesis.tex" / "out").check_writable()


def test_files_with_other_names_among_the_shards_are_kept(rendered):
    (rendered.out / "shards/2024-backup.tar").touch()
    rendered.settings = "settings-2"
    assert rendered.plan().removed == ()
    rendered.render()
    assert (rendered.out / "shards/2024-backup.tar").exists()


@pytest.mark.parametrize("table", ["index.parquet", "failures.parquet"])
def test_a_missing_table_is_an_error_with_its_name(rendered, table):
    (rendered.out / table).unlink()
    with pytest.raises(UsageError, match=table):
        rendered.plan()


class TestShardNamesOutsideTheDirectory:
    """A directory from somebody else may have shard names that lead out of it."""

    NAME = "../../victim"

    @pytest.fixture
    def victim(self, rendered) -> Path:
        """A file outside the directory, in which no sample is wanted any more."""
        victim = rendered.out.parent / "victim"
        victim.write_text("precious")
        rendered.samples.clear()
        rendered.add("F0009_HA")
        return victim

    def use_name(self, rendered: World, file: str) -> None:
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
        """The records after the start of a second run, by file name."""
        rendered.output.begin(())
        return {path.name: json.loads(path.read_bytes()) for path in rendered.output.progress.local.glob("*.json")}

    @pytest.mark.parametrize("file", ["manifest.json", "index.parquet", "failures.parquet"])
    def test_bad_names_are_rejected_before_anything_is_removed_or_written(self, rendered, victim, file):
        self.use_name(rendered, file)
        before = rendered.content()
        with pytest.raises(UsageError, match=rf"{file}: .*(shards\.0\.name|invalid shard name)"):
            rendered.render()
        assert rendered.content() == before and victim.read_text() == "precious"
        assert sorted(path.name for path in rendered.out.parent.iterdir()) == ["data", "out", "victim"]

    def test_a_record_with_a_bad_name_is_ignored(self, rendered, victim):
        record = self.read_records(rendered)["000000.tar.json"] | {"name": self.NAME}
        (rendered.output.progress / f"{victim.name}.json").write_text(json.dumps(record))
        assert self.NAME not in rendered.render().removed and victim.read_text() == "precious"

    @pytest.mark.parametrize("part", ["entry", "rows", "failures"])
    def test_a_record_with_a_bad_name_inside_is_ignored(self, rendered, part):
        content = next(record for record in self.read_records(rendered).values() if record[part])
        if part == "entry":
            content["entry"]["name"] = self.NAME
        else:
            content[part][0]["shard"] = self.NAME
        (rendered.output.progress / f"{content['name']}.json").write_text(json.dumps(content))
        assert content["name"] not in {record.name for record in rendered.output.read_records()}


def test_a_record_in_the_file_of_another_shard_is_ignored(rendered):
    rendered.output.begin(())
    first = rendered.output.progress / "000000.tar.json"
    first.local.rename((rendered.output.progress / "000001.tar.json").local)
    assert [record.name for record in rendered.output.read_records()] == ["000002.tar"]
