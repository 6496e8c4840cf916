"""`seqloom recipes`: what there is, with the numbers of the cards, and each as it is."""

import random
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from seqloom import run_folder
from seqloom.__main__ import main
from seqloom.commands.command import parse
from seqloom.commands.compare import Compare
from seqloom.settings.recipes import names

ROOT = Path(__file__).parents[2]


def test_lists_all(capsys):
    """With the numbers of its model card, where it has one."""
    assert main(["recipes"]) == 0
    blocks = dict(block.split("\n", 1) for block in capsys.readouterr().out.split("\n\n")[:-1])
    assert list(blocks) == names()
    card = (ROOT / "model_cards" / "scan-rnn.md").read_text(encoding="utf-8")
    (parameters,) = re.findall(r"([\d,]+) parameters, trained", card)
    (seconds,) = re.findall(r"time \| (\d+ s)", card)
    (updates,) = re.findall(r"length \| ([\d,]+ updates)", card)
    (score,) = re.findall(r"Exact match ↑ \| ([\d.]+)", card)
    said = " ".join(blocks["scan-rnn"].split())
    assert "commands to action sequences, by a GRU with attention. model rnn_seq2seq" in said
    assert f"rnn_seq2seq, {parameters} parameters" in said
    assert f"{updates}; {seconds} on 1 thread of AMD EPYC, float32 scores Exact match {score}, Token" in said
    assert "parameters" not in blocks["multi30k-en-de-hybrid"]  # which was not measured
    assert "your own: --train_files train.en.gz train.ko.gz" in blocks["bible-en-ko"]


def test_prints_one(capsys):
    assert main(["recipes", "scan-rnn"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "scan-rnn.yaml").read_text(encoding="utf-8")
    assert main(["recipes", "scan-rn"]) == 1
    assert capsys.readouterr().err == "error: no recipe is called scan-rn; did you mean scan-rnn?\n"
    assert main(["recipes", "scan-rnn", "scan-transformer"]) == 1
    assert "usage: seqloom recipes [RECIPE]" in capsys.readouterr().err


def test_compared_by_name(tmp_path, monkeypatch):
    """A recipe's name is a recipe, a path a model; a name that is nearly a recipe's is neither."""
    monkeypatch.chdir(tmp_path)

    def request(*words):
        call = parse(Compare, words)
        assert isinstance(call, Compare)
        return call.request()

    found = request("scan-rnn", "mine.yml", "./scan-rnn", "t5-small")
    assert (found.configs, found.models) == (("scan-rnn", "mine.yml"), ("./scan-rnn", "t5-small"))
    with pytest.raises(ValueError, match="neither a recipe nor a folder scan-rn; did you mean the recipe scan-rnn"):
        request("scan-rn")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_spelling_to_sound(tmp_path, monkeypatch, capsys):
    """The recipe on a table of one's own: letters in, phonemes out, scored by phonemes and by whole words."""
    monkeypatch.chdir(tmp_path)
    sounds = {"a": "AH0", "b": "B", "c": "K", "sh": "SH", "é": "EY1"}
    draw = random.Random(1)
    for name, count in (("words", 60), ("others", 8)):
        words = [draw.choices(list(sounds), k=draw.randint(1, 4)) for _ in range(count)]
        lines = ["".join(word) + "\t" + " ".join(map(sounds.__getitem__, word)) for word in words]
        Path(f"{name}.tsv").write_text("\n".join(["spelling\tsound", *lines, ""]), encoding="utf-8")
    small = "--hidden_size 8 --embedding_size 8 --max_steps 2 --eval_steps 1 --warmup_steps 0 --num_threads 1"
    columns = "--source spelling --target sound --test_files others.tsv"
    assert main(["train", "spelling-to-sound", *columns.split(), *small.split()]) == 0
    assert "gives way" not in capsys.readouterr().out
    record = run_folder.read_record(Path("runs/spelling-to-sound"))
    assert [*record["evaluation"]["metrics"]] == ["per", "exact_match"]
    tokenizer = AutoTokenizer.from_pretrained("runs/spelling-to-sound")
    assert tokenizer.tokenize("shé") == ["s", "h", "é"]
    assert tokenizer.target_tokenizer.tokenize("SH EY1 AH0") == ["SH", "EY1", "AH0"]
