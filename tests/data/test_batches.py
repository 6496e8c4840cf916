"""Batches: every pair once an epoch, within the budget, the same for every number of processes and pieces."""

import itertools
import random

import numpy as np
import pytest
import torch
from helpers.batching import settings

from seqloom.data.batches import PlanSummary, collate, figures_of, plan_epoch, share
from seqloom.modeling.modeling_seq2seq import IGNORED


def lengths(pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of sentences: about log-normal, the sides alike but not the same."""
    generator = np.random.default_rng(seed)
    source = np.exp(generator.normal(2.6, 0.5, pairs))
    target = source * np.exp(generator.normal(0.1, 0.25, pairs))
    return tuple(np.clip(side.round().astype(int), 2, 90) for side in (source, target))


def plain(plan) -> list[list[list[int]]]:
    return [[batch.tolist() for batch in update] for update in plan]


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
        """Nor do other processes plan otherwise: training/test_processes.py compares their losses."""
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
