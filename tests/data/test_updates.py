"""Updates: every pair once an epoch, streamed or not, and one gradient however it is shared out."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from helpers.batching import settings
from helpers.tiny import tiny

from seqloom.data.updates import UpdateStream
from seqloom.modeling.modeling_seq2seq import IGNORED


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


@pytest.mark.slow
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
