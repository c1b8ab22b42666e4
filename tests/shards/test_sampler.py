"""The sampler: every sample once per epoch, equal steps on all ranks, and an order given by seed, epoch, partitions."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smile_pipe.shards.sampler import WINDOW, Sampler, balancing_weights

quickly = settings(max_examples=150, deadline=None)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=30).filter(lambda counts: sum(counts) >= 2)
batch_sizes = st.integers(1, 9)
worlds = st.integers(1, 5)
seeds = st.integers(0, 2**32)
epochs = st.integers(0, 1000)
partition_counts = st.integers(1, 6)


def shard_numbers(counts: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def ranks(
    counts: list[int], batch_size: int, seed: int, world_size: int, partitions: int = 1, window: int = WINDOW
) -> list[Sampler]:
    shards = shard_numbers(counts)
    return [Sampler(shards, batch_size, seed, world_size, rank, partitions, window) for rank in range(world_size)]


def count(batches: Iterable[NDArray[np.int64]]) -> Counter[int]:
    return Counter(number for batch in batches for number in batch.tolist())


def read(sampler: Sampler, epoch: int, start_step: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in sampler.batches(epoch, start_step)]


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs, partition_counts)
def test_every_sample_is_read_once_per_epoch_by_one_rank(counts, batch_size, seed, world_size, epoch, partitions):
    samplers = ranks(counts, batch_size, seed, world_size, partitions)
    assert count(batch for sampler in samplers for batch in sampler.batches(epoch)) == Counter(range(sum(counts)))


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs, partition_counts)
def test_all_ranks_take_num_steps_steps(counts, batch_size, seed, world_size, epoch, partitions):
    samplers = ranks(counts, batch_size, seed, world_size, partitions)
    steps = {len(list(sampler.batches(epoch))) for sampler in samplers}
    assert steps == {samplers[0].num_steps} == {sampler.num_steps for sampler in samplers}


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs, st.booleans())
def test_batch_sizes_differ_by_at_most_one_and_never_exceed_the_batch_size(
    counts, batch_size, seed, world_size, epoch, has_partitions
):
    samplers = ranks(counts, batch_size, seed, world_size, world_size if has_partitions else 1)
    lengths = [len(batch) for sampler in samplers for batch in sampler.batches(epoch)]
    assert max(lengths) - min(lengths) <= 1 and max(lengths) <= batch_size


@quickly
@given(sizes, st.integers(2, 9), seeds, worlds, epochs, st.integers(1, 18))
def test_batches_have_about_equal_sizes_with_any_number_of_partitions(
    counts, batch_size, seed, world_size, epoch, partitions
):
    # As many partitions as there are samples in a step are the most that training accepts.
    if partitions <= batch_size * world_size:
        samplers = ranks(counts, batch_size, seed, world_size, partitions)
        joined = [sum(map(len, step)) for step in zip(*(s.batches(epoch) for s in samplers), strict=True)]
        assert max(joined) - min(joined) <= 2 + partitions // 2


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "world_size", "partitions"),
    [
        (3200, 32, 1, 32),
        (100_000, 32, 1, 30),
        (3200, 32, 1, 3),
        (10_000, 64, 1, 60),
        (1000, 2, 3, 6),
        (9999, 8, 8, 8),
    ],
)
def test_rounding_of_partitions_does_not_add_up(num_samples, batch_size, world_size, partitions):
    samplers = [
        Sampler(np.arange(num_samples) // 8, batch_size, 0, world_size, rank, partitions) for rank in range(world_size)
    ]
    joined = [sum(map(len, step)) for step in zip(*(sampler.batches(1) for sampler in samplers), strict=True)]
    mean = num_samples / samplers[0].num_steps
    # With as many partitions as ranks, which is the default, by the rounding of two numbers; with others by a tenth.
    assert all(abs(length - mean) <= (2 if partitions == world_size else max(2, mean / 10)) for length in joined)


@quickly
@given(sizes, st.integers(2, 9), seeds, worlds, epochs, st.booleans())
def test_no_batch_is_empty_with_at_least_two_samples_per_rank(
    counts, batch_size, seed, world_size, epoch, has_partitions
):
    if sum(counts) >= 2 * world_size:
        samplers = ranks(counts, batch_size, seed, world_size, world_size if has_partitions else 1)
        assert all(len(batch) for sampler in samplers for batch in sampler.batches(epoch))


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs, partition_counts)
def test_ranks_together_read_what_one_rank_with_the_joint_batch_size_reads(
    counts, batch_size, seed, world_size, epoch, partitions
):
    (alone,) = ranks(counts, batch_size * world_size, seed, 1, partitions)
    samplers = ranks(counts, batch_size, seed, world_size, partitions)
    together = zip(*(sampler.batches(epoch) for sampler in samplers), strict=True)
    for joint, parts in zip(alone.batches(epoch), together, strict=True):
        assert count([joint]) == count(parts)


@quickly
@given(sizes, batch_sizes, seeds, worlds, epochs, partition_counts, st.data())
def test_resuming_at_a_step_gives_the_rest_of_the_epoch(counts, batch_size, seed, world_size, epoch, partitions, data):
    for sampler in ranks(counts, batch_size, seed, world_size, partitions):
        start = data.draw(st.integers(0, sampler.num_steps))
        assert read(sampler, epoch, start) == read(sampler, epoch)[start:]


@quickly
@given(sizes, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), seeds, epochs, partition_counts, st.data())
def test_every_sample_is_read_once_if_the_number_of_ranks_changes_within_an_epoch(
    counts, common, before, after, seed, epoch, partitions, data
):
    # Batches of each rank are as much larger as there are fewer ranks.
    first = ranks(counts, common * after, seed, before, partitions)
    then = ranks(counts, common * before, seed, after, partitions)
    assert first[0].num_steps == then[0].num_steps
    step = data.draw(st.integers(0, first[0].num_steps))
    seen = count(batch for sampler in first for batch in list(sampler.batches(epoch))[:step])
    seen += count(batch for sampler in then for batch in sampler.batches(epoch, step))
    assert seen == Counter(range(sum(counts)))


@quickly
@given(sizes, seeds, epochs, partition_counts)
def test_order_depends_only_on_seed_epoch_and_partitions(counts, seed, epoch, partitions):
    (one,) = ranks(counts, 6, seed, 1, partitions)
    for sampler in ranks(counts, 2, seed, 3, partitions):
        assert sampler.order(epoch).tolist() == one.order(epoch).tolist()
    assert one.order(epoch).tolist() == [number for batch in read(one, epoch) for number in batch]


def test_order_differs_between_epochs_and_seeds():
    orders = {tuple(ranks([8] * 8, 4, seed, 1)[0].order(epoch)) for seed in range(8) for epoch in range(8)}
    assert len(orders) == 64


@pytest.mark.parametrize("window", [2, WINDOW])
def test_order_is_uniformly_shuffled(window):
    # Mean place of a sample over many epochs: 31.5, with a standard error of 18.5 / sqrt(400) = 0.9.
    (sampler,) = ranks([8] * 8, 4, 0, 1, window=window)
    places = np.zeros(64)
    for epoch in range(400):
        places[sampler.order(epoch)] += np.arange(64)
    assert np.abs(places / 400 - 31.5).max() < 5


def test_ranks_and_neighbours_of_samples_differ_between_epochs_without_partitions():
    first, second = ranks([8] * 8, 4, 0, 2)
    assert len(count(first.batches(0)) & count(second.batches(1))) >= 8
    companions = [
        next(set(batch) for batch in read(first, epoch) if 0 in batch)
        for epoch in range(20)
        if any(0 in batch for batch in read(first, epoch))
    ]
    assert len(set(map(frozenset, companions))) == len(companions) > 4


def test_a_rank_reads_its_own_shards_in_every_epoch_with_partitions():
    samplers = ranks([8] * 40, 4, 0, 4, partitions=4)
    own = [set(count(sampler.batches(0))) for sampler in samplers]
    assert all(set(count(sampler.batches(7))) == numbers for sampler, numbers in zip(samplers, own, strict=True))
    # Ten whole shards each, which are not neighbours in the set.
    shards = [set(samplers[0].shards[list(numbers)]) for numbers in own]
    assert [len(names) for names in shards] == [10] * 4 and all(max(names) - min(names) > 15 for names in shards)
    orders = {tuple(read(samplers[0], epoch)[0]) for epoch in range(20)}
    assert len(orders) == 20


def test_partitions_have_equal_sizes():
    samplers = ranks([9, 1, 30, 2, 17] * 3, 4, 0, 3, partitions=3)
    assert {len(count(sampler.batches(0))) for sampler in samplers} == {59}


def test_partitions_are_shuffled_differently():
    sampler = ranks([8] * 8, 4, 0, 1, partitions=2)[0]
    places = [np.argsort(sampler._members[n])[np.argsort(np.argsort(sampler._shuffled(n, 0)))] for n in range(2)]
    assert places[0].tolist() != places[1].tolist()


@quickly
@given(sizes, st.integers(1, 5), seeds, epochs)
def test_few_shards_are_read_at_a_time(counts, window, seed, epoch):
    (sampler,) = ranks(counts, 4, seed, 1, window=window)
    shards = sampler.shards[sampler.order(epoch)]
    first = {shard: np.flatnonzero(shards == shard)[0] for shard in range(len(counts))}
    last = {shard: np.flatnonzero(shards == shard)[-1] for shard in range(len(counts))}
    is_open = [sum(first[shard] <= place <= last[shard] for shard in first) for place in range(len(shards))]
    assert max(is_open) <= window + window // 2 + 1


def test_batches_at_both_ends_of_an_epoch_are_of_many_shards():
    (sampler,) = ranks([256] * 100, 64, 0, 1)
    num_shards = [len(set(sampler.shards[batch])) for batch in sampler.batches(3)]
    assert min(num_shards) >= WINDOW // 2 - 1 and np.mean(num_shards) > 15


def test_a_shard_is_in_the_buffer_with_others_in_each_epoch():
    # Were they the same, a sample would only ever meet those.
    (sampler,) = ranks([2] * 12, 4, 0, 1, window=3)
    assert len({frozenset(sampler.shards[sampler.order(epoch)[:6]]) for epoch in range(20)}) > 10


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "world_size", "steps"), [(10, 4, 1, 3), (8, 4, 2, 1), (9, 4, 2, 2)]
)
def test_remainder_is_spread_over_all_steps(num_samples, batch_size, world_size, steps):
    sampler = Sampler(np.zeros(num_samples, np.int64), batch_size, 0, world_size)
    assert sampler.num_steps == steps
    lengths = [len(batch) for batch in sampler.batches(0)]
    assert min(lengths) >= num_samples // (steps * world_size)


class TestWeights:
    @quickly
    @given(sizes, batch_sizes, seeds, worlds, epochs, partition_counts, st.data())
    def test_samples_are_read_in_proportion_to_their_weights(
        self, counts, batch_size, seed, world_size, epoch, partitions, data
    ):
        total = sum(counts)
        weights = np.array(data.draw(st.lists(st.floats(0.1, 10), min_size=total, max_size=total)))
        samplers = [replace(s, weights=weights) for s in ranks(counts, batch_size, seed, world_size, partitions)]
        seen = count(batch for sampler in samplers for batch in sampler.batches(epoch))
        assert sum(seen.values()) == total
        for members in samplers[0]._members:
            expected = weights[members] / weights[members].sum() * len(members)
            assert all(abs(seen[number] - n) < 1 + 1e-9 for number, n in zip(members.tolist(), expected, strict=True))

    def test_epochs_draw_different_samples(self):
        (sampler,) = ranks([30] * 2, 4, 0, 1)
        sampler = replace(sampler, weights=np.r_[np.full(30, 1.0), np.full(30, 0.1)])
        drawn = [frozenset(count(sampler.batches(epoch))) for epoch in range(80)]
        assert len(set(drawn)) == 80 and frozenset.union(*drawn) == frozenset(range(60))

    def test_classes_are_balanced(self):
        classes = np.repeat([0, 1, 2], [50, 30, 10])
        (sampler,) = ranks([9] * 10, 4, 0, 1)
        balanced = replace(sampler, weights=balancing_weights(classes))
        for epoch in range(5):
            drawn = Counter(classes[balanced.order(epoch)].tolist())
            assert all(abs(drawn[number] - 30) <= 1 for number in range(3))
