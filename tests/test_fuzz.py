"""Wrong input of every kind over every command: one sentence, or it is taken; a traceback never."""

import random
import time
from pathlib import Path

import pytest
import yaml
from helpers import fuzz
from helpers.runs import configure, write_pairs
from helpers.scored import scored_folder, sentences

from seqloom.commands import train

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "little_memory")
SEED = 0


def check_all(cases: list[fuzz.Case], folder: Path, capsys) -> fuzz.Tally:
    """Tries them all, and says what came of it."""
    tally, begun = fuzz.Tally(), time.perf_counter()
    for number, case in enumerate(cases):
        fuzz.attempt(case, folder / str(number), tally)
        if number % 50 == 0:
            tally.save(folder)
    tally.save(folder)
    with capsys.disabled():
        print(
            f"\n{tally}; {len(cases) / (time.perf_counter() - begun):.0f} a second; {folder}/accepted.txt", flush=True
        )
    assert not tally.tracebacks, "\n".join(tally.tracebacks[:20])
    return tally


@pytest.fixture
def config(tmp_path) -> dict:
    """Settings of a run, as plain values."""
    pairs = {name: write_pairs(tmp_path, name, 40) for name in ("few", "validation", "test")}
    return yaml.safe_load(Path(configure(tmp_path / "new", pairs, "rnn")).read_text())


def contents(tmp_path: Path) -> dict[str, bytes]:
    words = sentences(40)
    return fuzz.tables([(word, word[::-1].upper()) for word in words], tmp_path)


class TestSample:
    """Some of all, in seconds."""

    def test_settings(self, tmp_path, config, capsys):
        cases = fuzz.settings_cases(config, scored_folder(tmp_path))
        check_all(random.Random(SEED).sample(cases, 150), tmp_path, capsys)

    def test_data(self, tmp_path, config, capsys):
        cases = fuzz.data_cases(contents(tmp_path), config, scored_folder(tmp_path), random.Random(SEED))
        check_all(random.Random(SEED).sample(cases, 60), tmp_path, capsys)

    @pytest.mark.slow  # a comparison that is accepted asks git for the commit
    def test_folders(self, tmp_path, config, capsys):
        cases = fuzz.folder_cases(scored_folder(tmp_path), config, random.Random(SEED))
        check_all(random.Random(SEED).sample(cases, 60), tmp_path, capsys)


@pytest.mark.faults
class TestEverything:
    """All of it, some minutes."""

    def test_settings(self, tmp_path, config, capsys):
        cases = fuzz.settings_cases(config, scored_folder(tmp_path))
        check_all(random.Random(SEED).sample(cases, 3000), tmp_path, capsys)

    def test_data(self, tmp_path, config, capsys):
        dice = random.Random(SEED)
        check_all(fuzz.data_cases(contents(tmp_path), config, scored_folder(tmp_path), dice), tmp_path, capsys)

    def test_folders(self, tmp_path, config, capsys):
        pairs = {"few": config["data"]["train_files"], "validation": config["data"]["validation_files"],
                 "test": config["data"]["test_files"]}  # fmt: skip
        assert train.main([configure(tmp_path / "whole", pairs, "rnn")]) == 0
        cases = fuzz.folder_cases(tmp_path / "whole" / "run", config, random.Random(SEED))
        check_all(random.Random(SEED).sample(cases, 1500), tmp_path, capsys)
