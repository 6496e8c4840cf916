"""A card's run is made again, and what it states is held against what comes out; its predictions are scored again."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.runs import run, write_pairs

from seqloom.__main__ import main
from seqloom.sharing.proof import Proof, find_proof, keep_proof
from seqloom.training.reproduction import outcomes

pytestmark = pytest.mark.slow
COUNTS = {"few": 40, "validation": 10, "test": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, one of another seed, and the proof of both, made into ``cards``."""
    folder = tmp_path_factory.mktemp("reproduction")
    pairs = {name: write_pairs(folder, name, number) for name, number in COUNTS.items()}
    changes = {"evaluation": {"metrics": ["chrf", "exact_match"], "metric_kwargs": {"chrf": {"word_order": 0}}}}
    run(folder, pairs, "rnn", **changes, output_dir=str(folder / "runs" / "letters"))
    run(folder, pairs, "rnn", **changes, training={"seed": 7}, output_dir=str(folder / "runs" / "other"))
    keep_proof(folder / "runs" / "letters", folder / "cards", [folder / "runs" / "other"])
    return folder


@pytest.fixture
def words(place):
    """Of the command line: where the files of the run lie."""
    files = {split: [str(place / f"{name}.{side}") for side in ("source", "target")]
             for split, name in (("train", "few"), ("validation", "validation"), ("test", "test"))}  # fmt: skip
    return [word for split, paths in files.items() for word in (f"--{split}_files", *paths)]


def test_what_is_kept(place):
    """A card, and what proves it, without a place of this machine."""
    folder = place / "cards" / "letters"
    names = {"record.json", "settings.yaml", "training_log.jsonl.gz", "predictions.jsonl.gz", "seeds.json"}
    assert {path.name for path in folder.iterdir()} == names
    card = (place / "cards" / "letters.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "| update |" in card
    assert "training_curve.png" not in card  # which lies elsewhere
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(place) not in (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    assert json.loads((folder / "seeds.json").read_text(encoding="utf-8")).keys() == {"42", "7"}
    assert yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))["training"]["seed"] == 42


def test_predictions_are_scored_again(place, capsys):
    """By the settings of their run, wherever they lie."""
    scores = json.loads((place / "runs/letters/evaluation/test/scores.json").read_text(encoding="utf-8"))["metrics"]
    for kept in ("runs/letters/evaluation/test/predictions.jsonl", "cards/letters/predictions.jsonl.gz"):
        assert main(["evaluate", "--predictions", str(place / kept)]) == 0
        said = capsys.readouterr().out.splitlines()
        for name, result in scores.items():
            assert f"{name} {result['score']:.2f} ".split() == next(x for x in said if x.startswith(name)).split()[:2]
            assert any(line.endswith(result["signature"]) for line in said)
        assert said[-1] == f"of 20 sentences in {place / kept}"
    assert main(["evaluate", "--predictions", str(place / kept), "--metrics", "ter"]) == 0
    assert capsys.readouterr().out.startswith("ter ")


def test_predictions_that_are_none(place, tmp_path, capsys):
    kept = place / "cards" / "letters" / "predictions.jsonl.gz"
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(kept.read_bytes()[:-20])
    for words, message in (
        (["--predictions", str(torn)], "cannot be unpacked"),
        (["--predictions", str(tmp_path / "no.jsonl")], "there is no file"),
        (["--predictions", str(kept), "--num_beams", "3"], "num_beams cannot be set for predictions"),
        ([str(place / "runs" / "letters"), "--predictions", str(kept)], "stands in the place of a model"),
    ):
        assert main(["evaluate", *words]) == 1
        assert message in capsys.readouterr().err


def test_the_same_comes_out(place, words, tmp_path, capsys):
    """Of a run's folder and of its card's; a second time nothing is trained."""
    output = ["--output_dir", str(tmp_path / "again")]
    for name in ("runs/letters", "cards/letters", "cards/letters"):
        assert main(["reproduce", str(place / name), *words, *output]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "letters is reproduced"
    assert not (place / "again").exists()


def test_other_scores(place, words, tmp_path, capsys):
    cards = shutil.copytree(place / "cards", tmp_path / "cards")
    (cards / "letters" / "seeds.json").unlink()
    path = cards / "letters" / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["evaluation"]["metrics"]["chrf"] |= {"score": 99.0, "interval": [98.5, 99.5]}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert main(["reproduce", str(cards / "letters"), *words, "--output_dir", str(tmp_path / "again")]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "letters is not reproduced: chrf"
    assert "chrf: 99.00 on the card" in said[-3]
    assert "(98.50 to 99.50, the 95 % interval over test sentences, for no other seeds are known): NOT" in said[-3]


def test_a_run_that_went_on_otherwise(place, words, tmp_path, capsys):
    cards = shutil.copytree(place / "cards", tmp_path / "cards")
    path = cards / "letters" / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    again = ["reproduce", str(cards / "letters"), *words, "--output_dir", str(tmp_path / "again")]
    for changed, status in (
        ({"learning_rate": [0.1, 0.2], "save_steps": [None, 2]}, 1),
        ({"save_steps": [None, 2]}, 0),
    ):
        record["resumed"] = [{"step": 3, "changed": changed}]
        path.write_text(json.dumps(record), encoding="utf-8")
        assert main(again) == status
        said = "letters was resumed after update 3 with another learning_rate, so one training does not make it again"
        assert (said in capsys.readouterr().err) == bool(status)


def test_spread_of_seeds():
    """Of three: 95 of 100 further ones are to be expected within it."""
    scores = [38.0, 39.0, 40.0]
    proof = Proof("a", Path(), {}, {str(seed): {"chrf": score} for seed, score in enumerate(scores)})
    spread = proof.spread("chrf")
    reach = 4.3027 * (4 / 3) ** 0.5  # t of 2 degrees of freedom, of which tables have 4.303
    assert (spread.low, spread.high) == pytest.approx((39 - reach, 39 + reach), abs=1e-3)
    assert all(spread.holds(score) for score in scores)


def test_what_is_refused(place, words, tmp_path, capsys):
    card, output = str(place / "cards" / "letters"), ["--output_dir", str(tmp_path / "again")]
    swapped = [word.replace("few.source", "few.target") for word in words]
    for given, message in (
        ([card, *words, "--learning_rate", "0.1"], "with another training.learning_rate it would not be letters"),
        ([card], "has its train pairs from few.source, few.target: say where they lie here with --train_files"),
        ([card, *swapped], "is not the few.source of letters"),
        (["letters"], "no card with its run's record is called letters"),
    ):
        assert main(["reproduce", *given, *output]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    proof = find_proof(card)
    with pytest.raises(ValueError, match=r"these cannot be compared\.$"):
        outcomes(proof, {"chrf": {"score": 1.0, "signature": "other"}, "exact_match": {}})
    with pytest.raises(ValueError, match="not in the seed alone"):
        keep_proof(place / "runs" / "letters", tmp_path / "cards", [place / "runs" / "letters"])
