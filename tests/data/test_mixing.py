"""Several data sets in one: their shares, and where a killed run goes on."""

import dataclasses
import json
import math
from pathlib import Path

import datasets
import pytest
from accelerate.state import AcceleratorState
from helpers.killed import assert_same_run, kill_and_resume, refused
from helpers.runs import (
    run,
)

from seqloom.data.pairs import load_pairs
from seqloom.settings.schema import DataSettings
from seqloom.settings.typed import build

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class TestMixing:
    """data.mix"""

    @pytest.fixture(scope="class")
    def sets(self, tmp_path_factory):
        """Three sets whose pairs tell where they come from: text files, a table with other columns, a local folder."""
        folder = tmp_path_factory.mktemp("sets")
        for side in ("source", "target"):
            (folder / f"a.{side}").write_text("".join(f"a{number}\n" for number in range(300)))
        rows = [{"question": f"b{number}", "answer": {"text": f"b{number}"}} for number in range(40)]
        (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pairs = {side: [f"c{number}" for number in range(90)] for side in ("source", "target")}
        datasets.DatasetDict({"all": datasets.Dataset.from_dict(pairs)}).save_to_disk(folder / "c")
        return {
            "a": {"train_files": [str(folder / f"a.{side}") for side in ("source", "target")]},
            "b": {"train_files": [str(folder / "b.jsonl")], "source": "question", "target": "answer.text"},
            "c": {"dataset": str(folder / "c"), "train_split": "all"},
        }

    @pytest.fixture
    def texts(self, sets, data):
        """What is drawn with weights 5, 3 and 2."""

        def _texts(seed: int = 1, **changes):
            mix = [{**sets["b"], "weight": 3}, {**sets["c"], "weight": 2}]
            fields = {**sets["a"], "weight": 5.0, "mix": mix, "validation_files": data["validation"], **changes}
            pairs = load_pairs(build(DataSettings, fields, "data"), seed, splits=["train"])
            columns = [
                list(column)
                for column in zip(*([r["source"], r["target"]] for r in pairs.splits["train"]), strict=True)
            ]
            assert columns[0] == columns[1]
            return columns[0], pairs.provenance

        return _texts

    def test_shares(self, texts):
        """5 : 3 : 2, each set in its own order, again from its start where it is used up."""
        found, provenance = texts()
        counts = {name: sum(text[0] == name for text in found) for name in "abc"}
        for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
            spread = math.sqrt(len(found) * share * (1 - share))
            assert abs(counts[name] - share * len(found)) < 3 * spread
        sizes = {"a": 300, "b": 40, "c": 90}
        for name, size in sizes.items():
            assert [text for text in found if text[0] == name] == [
                f"{name}{number % size}" for number in range(counts[name])
            ]
            assert counts[name] >= size  # all are exhausted
        assert [entry["drawn"] for entry in provenance["mix"]] == list(counts.values())
        assert [entry["pairs"] for entry in provenance["mix"]] == list(sizes.values())
        assert [entry["weight"] for entry in provenance["mix"]] == [5, 3, 2]
        assert provenance["pairs"] == {"train": len(found)}
        assert provenance == json.loads(json.dumps(provenance))

    def test_none_of_its_own(self, texts, sets, data):
        """The section's validation pairs, and what else is mixed; a single other set is taken as it is."""
        found, provenance = texts(weight=0)
        assert {text[0] for text in found} == {"b", "c"}
        assert [entry["weight"] for entry in provenance["mix"]] == [3, 2]
        assert [file["name"] for file in provenance["splits"]["train"]] == ["b.jsonl"]
        found, provenance = texts(weight=0, mix=[{**sets["b"], "weight": 7}])
        assert found == [f"b{number}" for number in range(40)]
        assert provenance["mix"][0]["drawn"] == provenance["mix"][0]["pairs"] == provenance["pairs"]["train"] == 40
        found, provenance = texts(weight=0, mix=[{**sets["b"], "weight": 7}], streaming=True)
        assert found == [f"b{number}" for number in range(40)]
        assert provenance["mix"][0]["drawn"] == "streamed"

    def test_no_weight_needs_others(self, tmp_path, data):
        refused(tmp_path, data, "data.weight is 0.0; it must be more than 0", data={"weight": 0})

    def test_the_first_to_end(self, texts):
        found, _ = texts(stopping_strategy="first_exhausted")
        counts = {name: sum(text[0] == name for text in found) for name in "abc"}
        assert counts["b"] == 40
        assert len({*found}) == len(found) < 200

    def test_a_function_of_the_seed(self, texts):
        assert texts()[0] == texts()[0] != texts(seed=2)[0]
        assert texts(weight=1.0)[0] != texts()[0]

    @pytest.mark.parametrize("strategy", ["all_exhausted", "first_exhausted"])
    def test_streamed_pairs_are_the_same(self, texts, strategy):
        streamed, provenance = texts(stopping_strategy=strategy, streaming=True)
        assert streamed == texts(stopping_strategy=strategy)[0]
        assert [entry["drawn"] for entry in provenance["mix"]] == ["streamed"] * 3

    def test_validation_and_test_are_of_data_alone(self, sets, data):
        fields = {**sets["a"], "mix": [{**sets["b"], "weight": 1}], "test_files": data["test"], "validation_size": 20}
        settings = build(DataSettings, fields, "data")
        pairs = load_pairs(settings, 1)
        alone = load_pairs(dataclasses.replace(settings, mix=[]), 1)
        for split in ("validation", "test"):
            assert pairs.splits[split][:] == alone.splits[split][:]
        held_out = {*pairs.splits["validation"]["source"]}
        assert len(held_out) == 20
        assert not held_out & {*pairs.splits["train"]["source"]}
        assert "mix" not in load_pairs(settings, 1, splits=["validation", "test"]).provenance

    @pytest.mark.slow
    @pytest.mark.parametrize("streaming", [False, True])
    def test_goes_on_after_a_kill(self, tmp_path, data, sets, monkeypatch, streaming):
        mix = [{**sets["b"], "weight": 1}, {"train_files": data["few"], "weight": 2}]
        changes = {"data": {"mix": mix, **({"streaming": True, "shuffle_buffer": 37} if streaming else {})},
                   "training": {"max_steps": 8, "batch_tokens": 150}}  # fmt: skip
        record = run(tmp_path / "whole", data, **changes)
        AcceleratorState._reset_state(reset_partial_state=True)
        kill_and_resume(monkeypatch, tmp_path / "killed", data, 5, **changes)
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        assert len(record["data"]["mix"]) == 3
        card = (tmp_path / "whole" / "run" / "README.md").read_text()
        for name in ("few.source, few.target", "b.jsonl"):
            assert f"| {name} | 1 |" in card
        if not streaming:
            assert f"| b.jsonl | 1 | 40 | {record['data']['mix'][1]['drawn']:,} |" in card
        assert str(Path(sets["b"]["train_files"][0]).parent) not in card

    @pytest.mark.slow
    def test_refusals(self, tmp_path, data, sets):
        for message, entry in (
            (r"data.mix\[0\].wieght is unknown; did you mean data.mix\[0\].weight", {**sets["b"], "wieght": 1}),
            (r"data.mix\[0\].test_files is unknown", {**sets["b"], "weight": 1, "test_files": data["test"]}),
            (r"data.mix\[0\] has no weight", sets["b"]),
            (r"data.mix\[0\].weight is 0.0; it must be more than 0", {**sets["b"], "weight": 0}),
            (r"data.mix\[0\].weight is 'much'", {**sets["b"], "weight": "much"}),
            (r"give either data.mix\[0\].dataset or", {"weight": 1}),
            (r"data.mix\[0\].split is 'simple'", {**sets["b"], "weight": 1, "split": "simple"}),
            (r"data.mix\[0\]: data.target is 'reply', but the columns of data.mix\[0\]|data.target is 'reply'",
             {**sets["b"], "weight": 1, "target": "reply"}),
            (r"data.mix\[0\]: data.train_split is 'dev', but", {**sets["c"], "weight": 1, "train_split": "dev"}),
            (r"data.mix\[0\]: there is no split 'train' to train on; there is all",
             {"dataset": sets["c"]["dataset"], "weight": 1}),
            (r"data.mix\[0\]: there is no file nowhere", {"train_files": ["nowhere"], "weight": 1}),
        ):  # fmt: skip
            refused(tmp_path, data, message, data={"mix": [entry]})
        refused(tmp_path, data, "data.weight is -1.0; it must be more than 0", data={"weight": -1})
        refused(tmp_path, data, "data.mix is 'scan'", data={"mix": "scan"})
        run(tmp_path, data, data={"mix": [{**sets["b"], "weight": 1}]})
        with pytest.raises(ValueError, match="another data section"):
            run(tmp_path, data, resume=True, data={"mix": [{**sets["b"], "weight": 2}]})
