"""Batches: every pair once an epoch, within the budget, the same for every number of processes and pieces."""

import itertools
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from helpers.tiny import tiny

from seqloom.data.batches import PlanSummary, collate, figures_of, plan_epoch, share
from seqloom.data.updates import UpdateStream
from seqloom.modeling.modeling_seq2seq import IGNORED
from seqloom.settings.schema import TrainingSettings


def settings(**fields) -> TrainingSettings:
    return TrainingSettings(**{"batch_tokens": 200, "max_steps": 1, **fields})


def lengths(pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of sentences: about log-normal, the sides alike but not the same."""
    generator = np.random.default_rng(seed)
    source = np.exp(generator.normal(2.6, 0.5, pairs))
    target = source * np.exp(generator.normal(0.1, 0.25, pairs))
    return tuple(np.clip(side.round().astype(int), 2, 90) for side in (source, target))


def plain(plan) -> list[list[list[int]]]:
    return [[batch.tolist() for batch in update] for update in plan]


def rows(pairs: int, first: int = 100) -> Dataset:
    """Encoded pairs; the first source token counts them from ``first`` on, so that a pair is known again."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 9, (pairs, 2))
    return Dataset.from_dict(
        {
            "input_ids": [[first + i, *generator.integers(3, 20, source)] for i, (source, _) in enumerate(sizes)],
            "labels": [[*generator.integers(3, 20, target), 2] for _, target in sizes],
        }
    )


def streamed(data: Dataset) -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(data.to_list()), features=data.features)


def pairs_of(batch: dict) -> list[int]:
    """The numbers of a batch's pairs; a part without labels holds none."""
    counted = (batch["labels"] != IGNORED).any(1)
    return (batch["input_ids"][counted, 0] - 100).tolist()


class TestPlan:
    @pytest.mark.parametrize("per_update", [1, 3])
    @pytest.mark.parametrize("budget", [{"batch_tokens": 200}, {"batch_tokens": None, "batch_size": 7}])
    def test_every_pair_once_an_epoch(self, budget, per_update):
        source, target = lengths(500)
        for epoch in range(3):
            plan = plan_epoch(source, target, settings(**budget, batches_per_update=per_update), epoch)
            assert sorted(itertools.chain(*(batch for update in plain(plan) for batch in update))) == list(range(500))
            assert [len(update) for update in plan[:-1]] == [per_update] * (len(plan) - 1)
            assert 1 <= len(plan[-1]) <= per_update

    def test_budget_holds_for_the_larger_side(self):
        source, target = lengths(2000)
        plan = plan_epoch(source, target, settings(batch_tokens=180), 0)
        batches = [batch for update in plan for batch in update]
        cells = [len(batch) * max(source[batch].max(), target[batch].max()) for batch in batches]
        assert max(cells) <= 180
        assert np.mean(cells) > 0.85 * 180  # and is made use of

    def test_rows_are_the_other_budget(self):
        source, target = lengths(500)
        plan = plan_epoch(source, target, settings(batch_tokens=None, batch_size=7), 0)
        sizes = sorted(len(batch) for update in plan for batch in update)
        assert sizes == [500 % 7, *[7] * (500 // 7)]

    def test_a_budget_of_one_pair_and_pairs_as_long_as_the_budget(self):
        source, target = np.array([3, 9, 5]), np.array([9, 2, 9])
        plan = plan_epoch(source, target, settings(batch_tokens=9), 0)
        assert sorted(plain(plan)) == [[[0]], [[1]], [[2]]]
        assert plan_epoch(source[:0], target[:0], settings(), 0) == []

    def test_too_long_pairs_are_refused(self):
        source, target = np.array([3, 201]), np.array([4, 5])
        with pytest.raises(ValueError, match=r"201 tokens on its larger side, but training.batch_tokens is 200"):
            plan_epoch(source, target, settings(), 0)
        assert len(plan_epoch(source, target, settings(batch_tokens=None, batch_size=2), 0)) == 1

    def test_depends_on_seed_and_epoch_alone(self):
        source, target = lengths(300)
        plans = {
            (seed, epoch): plain(plan_epoch(source, target, settings(seed=seed), epoch))
            for seed in range(3)
            for epoch in range(3)
        }
        for one, other in itertools.combinations(plans, 2):
            assert plans[one] != plans[other], (one, other)
            # Not the order of the batches alone: pairs meet other pairs.
            ours, theirs = ([sorted(batch) for update in plans[key] for batch in update] for key in (one, other))
            assert sorted(ours) != sorted(theirs)
        assert plain(plan_epoch(source, target, settings(seed=1), 2)) == plans[1, 2]

    def test_draws_from_no_common_generator(self):
        """Nor do other processes plan otherwise: test_training.py compares their losses."""
        source, target = lengths(200)
        plans = []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            plans.append(plain(plan_epoch(source, target, settings(), 3)))
            after = (random.random(), np.random.random(), torch.rand(()).item())
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            assert (random.random(), np.random.random(), torch.rand(()).item()) == after
        assert plans[0] == plans[1]

    def test_every_epoch_has_as_many_updates(self):
        """The schedule's end is computed from the first one."""
        source, target = lengths(700)
        assert len({len(plan_epoch(source, target, settings(), epoch)) for epoch in range(8)}) == 1

    def test_little_padding(self):
        source, target = lengths(20_000)
        plan = plan_epoch(source, target, settings(batch_tokens=4096), 0)
        assert PlanSummary.over([figures_of(plan, source, target)]).padding < 0.13
        shuffled = [[np.random.default_rng(0).permutation(20_000)[i : i + 150]] for i in range(0, 20_000, 150)]
        assert PlanSummary.over([figures_of(shuffled, source, target)]).padding > 0.5  # what sorting saves

    def test_batches_come_in_no_order_of_length(self):
        source, target = lengths(5000)
        widths = [target[update[0]].max() for update in plan_epoch(source, target, settings(), 0)]
        assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.15

    def test_summary_counts(self):
        source, target = lengths(60)
        plan = plan_epoch(source, target, settings(batches_per_update=2), 0)
        tokens, cells, target_tokens = 0, 0, []
        for update in plan:
            target_tokens.append(0)
            for batch in update:
                for side in (source, target):
                    tokens += sum(side[i] for i in batch)
                    cells += len(batch) * max(side[i] for i in batch)
                target_tokens[-1] += sum(target[i] for i in batch)
        summary = PlanSummary.over([figures_of(plan, source, target)])
        assert (summary.pairs, summary.batches, summary.updates) == (60, sum(map(len, plan)), len(plan))
        assert summary.padding == pytest.approx(1 - tokens / cells)
        assert summary.target_tokens_per_update == pytest.approx(sum(target_tokens) / len(plan))
        assert f"60 pairs in {summary.batches} batches and {summary.updates} updates" in str(summary)


class TestShare:
    @pytest.mark.parametrize("pieces", [1, 2, 3])
    @pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
    @pytest.mark.parametrize("per_update", [1, 2, 4])
    def test_the_parts_are_the_whole(self, per_update, num_processes, pieces):
        source, target = lengths(90)
        for update in plan_epoch(source, target, settings(batch_tokens=150, batches_per_update=per_update), 0):
            shares = [share(update, num_processes, process, pieces) for process in range(num_processes)]
            together = sorted(itertools.chain(*(part.tolist() for parts in shares for part in parts)))
            assert together == sorted(itertools.chain(*(batch.tolist() for batch in update)))
            assert len({len(parts) for parts in shares}) == 1
            assert len(shares[0]) % pieces == 0

    def test_pieces_are_smaller(self):
        batch = np.arange(10)
        assert [len(part) for part in share([batch], 1, 0, 4)] == [3, 3, 2, 2]
        assert [len(part) for part in share([batch], 2, 1, 2)] == [3, 2]

    def test_whole_batches_go_to_one_process_where_they_come_out_even(self):
        update = [np.arange(3), np.arange(3, 9)]
        assert plain([share(update, 2, 0, 1), share(update, 2, 1, 1)]) == [[[0, 1, 2]], [[3, 4, 5, 6, 7, 8]]]


def test_collate_pads():
    batch = collate([[5, 6, 2], [7, 2]], [[8, 2], [9, 9, 9, 2]], pad_token_id=0)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 2], [7, 2, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[8, 2, IGNORED, IGNORED], [9, 9, 9, 2]],
    }
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def make_stream(data, num_processes=1, process_index=0, shuffle_buffer=10_000, **fields) -> UpdateStream:
    fields = {"batch_tokens": 30, **fields}
    return UpdateStream(
        data, settings(**fields), pad_token_id=0, shuffle_buffer=shuffle_buffer,
        num_processes=num_processes, process_index=process_index,
    )  # fmt: skip


class TestUpdates:
    """What `UpdateStream` adds to the plan: tensors, positions, streams."""

    @pytest.mark.parametrize("streaming", [False, True])
    def test_every_pair_once_and_whole(self, streaming):
        data = rows(100)
        stream = make_stream(streamed(data) if streaming else data, shuffle_buffer=30, batches_per_update=2)
        for epoch in range(2):
            positions = list(stream.epoch(epoch))
            assert [position.index for position in positions] == list(range(len(positions)))
            assert {position.epoch for position in positions} == {epoch}
            seen = {}
            for position in positions:
                labels = [batch["labels"] for batch in position.micro_batches]
                assert position.num_tokens == sum(int((part != IGNORED).sum()) for part in labels)
                for batch in position.micro_batches:
                    for source, mask, target in zip(*(batch[name].tolist() for name in batch), strict=True):
                        assert source[0] not in seen
                        ids = list(itertools.compress(source, mask))
                        seen[source[0]] = (ids, [label for label in target if label != IGNORED])
            assert list(seen.values()) == [(data[i - 100]["input_ids"], data[i - 100]["labels"]) for i in seen]
            assert len(seen) == 100

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("start", [0, 1, 5, 1000])
    def test_start_skips_exactly_the_first(self, streaming, start):
        data = rows(100)
        stream = make_stream(streamed(data) if streaming else data, shuffle_buffer=30)
        whole = list(stream.epoch(1))
        rest = list(stream.epoch(1, start=start))
        assert [position.index for position in rest] == list(range(start, len(whole)))
        for position, expected in zip(rest, whole[start:], strict=True):
            assert position.num_tokens == expected.num_tokens
            for batch, other in zip(position.micro_batches, expected.micro_batches, strict=True):
                assert all(torch.equal(batch[name], other[name]) for name in other)

    def test_a_stream_is_planned_chunk_by_chunk(self):
        data = rows(100)
        stream = make_stream(streamed(data), shuffle_buffer=30)
        epochs = []
        for epoch in range(2):
            order = [pairs_of(batch) for position in stream.epoch(epoch) for batch in position.micro_batches]
            chunks = [sorted({pair // 30 for pair in pairs}) for pairs in order]
            # No batch reaches across chunks, and these are read once, from the start.
            assert [chunk for chunk, _ in itertools.groupby(chunks)] == [[0], [1], [2], [3]]
            epochs.append(order)
        assert epochs[0] != epochs[1]

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("num_processes", [2, 3, 4])
    def test_processes_share_every_update(self, streaming, num_processes):
        data = rows(80)
        make = streamed if streaming else lambda data: data
        options = {"shuffle_buffer": 30, "batches_per_update": 2}
        alone = list(make_stream(make(data), **options).epoch(0))
        shares = [
            list(make_stream(make(data), num_processes, index, gradient_accumulation_steps=2, **options).epoch(0))
            for index in range(num_processes)
        ]
        for whole, *parts in zip(alone, *shares, strict=True):
            assert {(part.index, part.num_tokens) for part in parts} == {(whole.index, whole.num_tokens)}
            assert len({len(part.micro_batches) for part in parts}) == 1
            together = [pair for part in parts for batch in part.micro_batches for pair in pairs_of(batch)]
            assert sorted(together) == sorted(pair for batch in whole.micro_batches for pair in pairs_of(batch))

    def test_parts_without_rows_are_a_pair_without_labels(self):
        data = rows(3)
        shares = [list(make_stream(data, 4, i, batch_tokens=None, batch_size=3).epoch(0)) for i in range(4)]
        (empty,) = [position for (position,) in shares if not pairs_of(position.micro_batches[0])]
        (batch,) = empty.micro_batches
        assert batch["input_ids"].shape[0] == 1
        assert (batch["labels"] == IGNORED).all()

    def test_summary_is_the_first_epochs(self):
        data = rows(50)
        stream = make_stream(data, batches_per_update=2)
        summary = stream.summary()
        assert (summary.pairs, summary.updates) == (50, len(list(stream.epoch(0))))
        assert summary.target_tokens_per_update == np.mean([position.num_tokens for position in stream.epoch(0)])
        assert make_stream(streamed(data), shuffle_buffer=20).summary().pairs == 20

    def test_an_empty_stream_is_refused(self):
        data = rows(5)
        with pytest.raises(ValueError, match="no pair"):
            make_stream(streamed(data).take(0)).summary()


def gradients(model, parts: list[dict], num_tokens: int) -> dict[str, torch.Tensor]:
    """What `make_update` does, without an optimizer."""
    model.zero_grad()
    for batch in parts:
        model(**batch, num_items_in_batch=num_tokens, use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", ["lstm-luong", "gru-bahdanau", "post-norm", "rotary-swiglu-pre-norm"])
def test_one_gradient_however_it_is_shared_out(name):
    """1x8, 2x4 and 8x1 rows, and two and three processes, some of them without rows: the same update."""
    model = tiny(name, dropout=0.0, label_smoothing=0.1)
    data = rows(8, first=3)
    size = {"batch_tokens": None, "batch_size": 8}
    (whole,) = make_stream(data, **size).epoch(0)
    expected = gradients(model, whole.micro_batches, whole.num_tokens)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01
    for processes, pieces in ((1, 2), (1, 8), (2, 1), (2, 2), (3, 1), (3, 4)):
        shares = [
            next(make_stream(data, processes, index, gradient_accumulation_steps=pieces, **size).epoch(0))
            for index in range(processes)
        ]
        parts = [gradients(model, share.micro_batches, share.num_tokens) for share in shares]
        for key, gradient in expected.items():
            torch.testing.assert_close(sum(part[key] for part in parts), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm-luong", "post-norm"])
def test_an_empty_part_adds_nothing(name):
    model = tiny(name, dropout=0.0)
    data = rows(1, first=3)
    part, empty = (next(make_stream(data, 2, index).epoch(0)) for index in range(2))
    loss = model(**empty.micro_batches[0], num_items_in_batch=empty.num_tokens).loss
    assert loss.item() == 0.0
    for gradient in gradients(model, empty.micro_batches, empty.num_tokens).values():
        assert not gradient.any()
    assert model(**part.micro_batches[0], num_items_in_batch=part.num_tokens).loss.item() > 0
