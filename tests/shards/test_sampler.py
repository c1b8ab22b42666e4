"""The sampler: every sample once per epoch, equal steps on all ranks, and an order given by seed and epoch."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile_pipe.shards.sampler import WINDOW, Sampler

quickly = settings(max_examples=150, deadline=None)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=30).filter(lambda counts: sum(counts) >= 2)
batch_sizes = st.integers(1, 9)
worlds = st.integers(1, 5)
seeds = st.integers(0, 2**32)
epochs = st.integers(0, 1000)


def shard_names(counts: list[int]) -> list[str]:
    return [f"{number:06d}.tar" for number, count in enumerate(counts) for _ in range(count)]


def ranks(counts: list[int], batch_size: int, seed: int, world_size: int, window: int = WINDOW) -> list[Sampler]:
    return [Sampler(shard_names(counts), batch_size, seed, world_size, rank, window) for rank in range(world_size)]


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs)
def test_every_sample_is_read_once_per_epoch_by_one_rank(counts, batch_size, seed, world_size, epoch):
    samplers = ranks(counts, batch_size, seed, world_size)
    read = Counter(number for sampler in samplers for batch in sampler.batches(epoch) for number in batch)
    assert read == Counter(range(sum(counts)))


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs)
def test_all_ranks_take_num_steps_steps(counts, batch_size, seed, world_size, epoch):
    samplers = ranks(counts, batch_size, seed, world_size)
    steps = {len(list(sampler.batches(epoch))) for sampler in samplers}
    assert steps == {samplers[0].num_steps} == {sampler.num_steps for sampler in samplers}


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs)
def test_batch_sizes_differ_by_at_most_one_and_never_exceed_the_batch_size(counts, batch_size, seed, world_size, epoch):
    lengths = [
        len(batch) for sampler in ranks(counts, batch_size, seed, world_size) for batch in sampler.batches(epoch)
    ]
    assert max(lengths) - min(lengths) <= 1 and max(lengths) <= batch_size


@quickly
@given(sizes, st.integers(2, 9), seeds, worlds, epochs)
def test_no_batch_is_empty_with_at_least_one_sample_per_rank(counts, batch_size, seed, world_size, epoch):
    if sum(counts) >= world_size:
        samplers = ranks(counts, batch_size, seed, world_size)
        assert all(batch for sampler in samplers for batch in sampler.batches(epoch))


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs)
def test_ranks_together_read_what_one_rank_with_the_joint_batch_size_reads(counts, batch_size, seed, world_size, epoch):
    (alone,) = ranks(counts, batch_size * world_size, seed, 1)
    together = zip(*(sampler.batches(epoch) for sampler in ranks(counts, batch_size, seed, world_size)), strict=True)
    for joint, parts in zip(alone.batches(epoch), together, strict=True):
        assert Counter(joint) == Counter(number for part in parts for number in part)


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs, st.data())
def test_resuming_at_a_step_gives_the_rest_of_the_epoch(counts, batch_size, seed, world_size, epoch, data):
    for sampler in ranks(counts, batch_size, seed, world_size):
        start = data.draw(st.integers(0, sampler.num_steps))
        assert list(sampler.batches(epoch, start)) == list(sampler.batches(epoch))[start:]


@quickly
@given(sizes, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), seeds, epochs, st.data())
def test_every_sample_is_read_once_if_the_number_of_ranks_changes_within_an_epoch(
    counts, common, before, after, seed, epoch, data
):
    # Batches of each rank are as much larger as there are fewer ranks.
    first = ranks(counts, common * after, seed, before)
    then = ranks(counts, common * before, seed, after)
    assert first[0].num_steps == then[0].num_steps
    step = data.draw(st.integers(0, first[0].num_steps))
    read = Counter(n for sampler in first for batch in list(sampler.batches(epoch))[:step] for n in batch)
    read += Counter(n for sampler in then for batch in sampler.batches(epoch, step) for n in batch)
    assert read == Counter(range(sum(counts)))


@quickly
@given(sizes, seeds, epochs)
def test_order_depends_only_on_seed_and_epoch(counts, seed, epoch):
    (one,) = ranks(counts, 4, seed, 1)
    assert all(sampler.order(epoch) == one.order(epoch) for sampler in ranks(counts, 2, seed, 3))


def test_order_differs_between_epochs_and_seeds():
    orders = {tuple(ranks([8] * 8, 4, seed, 1)[0].order(epoch)) for seed in range(8) for epoch in range(8)}
    assert len(orders) == 64


def test_order_is_uniformly_shuffled():
    # Mean place of a sample over many epochs: 31.5, with a standard error of 18.5 / sqrt(400) = 0.9.
    (sampler,) = ranks([8] * 8, 4, 0, 1)
    places = [0] * 64
    for epoch in range(400):
        for place, number in enumerate(sampler.order(epoch)):
            places[number] += place
    assert all(abs(total / 400 - 31.5) < 5 for total in places)


def test_ranks_and_neighbours_of_samples_differ_between_epochs():
    # With shards tied to a rank, a sample would meet the same companions for the whole training.
    first, second = ranks([8] * 8, 4, 0, 2)
    seen = {number for batch in first.batches(0) for number in batch}
    moved = {number for batch in second.batches(1) for number in batch} & seen
    assert len(moved) >= 8
    companions = [next(set(batch) for batch in first.batches(epoch)) for epoch in range(20)]
    assert len(set(map(frozenset, companions))) == 20


@quickly
@given(sizes, st.integers(1, 5), seeds, epochs)
def test_at_most_window_shards_are_read_at_a_time(counts, window, seed, epoch):
    (sampler,) = ranks(counts, 4, seed, 1, window)
    shards = [shard_names(counts)[number] for number in sampler.order(epoch)]
    window_of = {shard: place // window for place, shard in enumerate(dict.fromkeys(shards))}
    windows = [window_of[shard] for shard in shards]
    assert windows == sorted(windows)


def test_windows_contain_other_shards_in_each_epoch():
    # Were the windows the same, a sample would only ever meet those of its own.
    (sampler,) = ranks([2] * 12, 4, 0, 1, window=3)
    first_windows = {frozenset(sampler.shards[number] for number in sampler.order(epoch)[:6]) for epoch in range(20)}
    assert len(first_windows) > 10


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "world_size", "steps"), [(10, 4, 1, 3), (8, 4, 2, 1), (9, 4, 2, 2)]
)
def test_remainder_is_spread_over_all_steps(num_samples, batch_size, world_size, steps):
    sampler = Sampler(["a"] * num_samples, batch_size, 0, world_size)
    assert sampler.num_steps == steps
    lengths = [len(batch) for batch in sampler.batches(0)]
    assert min(lengths) >= num_samples // (steps * world_size)
