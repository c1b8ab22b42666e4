"""The output directory of a render: what lies in it, what it tells the next run, and what is not taken for one."""

import pytest
from worlds import KEYS, World, new_world, rendered_world

from pipeline.planning.output import RenderOutput
from shards.errors import UsageError


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
    assert world.output.receipts() == made
    world.finish(made)
    assert world.output.receipts() == made


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
