"""Speed and state of generation_length.py, on systems that are small."""

import sys

import generation_length
import pytest
from generation_length import SYSTEMS


def run(monkeypatch, folder, words):
    small = "--width 8 --ffn 8 --heads 2 --vocabulary 20 --rounds 6"
    monkeypatch.setattr(sys, "argv", ["generation_length.py", *f"{small} --output {folder}/found.json {words}".split()])
    generation_length.main()


@pytest.mark.slow
def test_states_and_ratios(monkeypatch, tmp_path, capsys):
    run(monkeypatch, tmp_path, "--lengths 2 4 --batches 2")
    run(monkeypatch, tmp_path, f"--lengths 4 --batches 1 2 --add --plot {tmp_path}/found.png")
    results = generation_length.json.loads((tmp_path / "found.json").read_text())["results"]
    assert [(one["batch"], one["length"]) for one in results] == [(1, 4), (2, 2), (2, 4)]
    for one in results:
        bytes_of = {name: system["state_bytes"] for name, system in one["systems"].items()}
        keys_and_values = {"Transformer 6-6": 6, "Transformer 12-1": 1, "Transformer 6-2": 2}
        for name, layers in keys_and_values.items():
            assert bytes_of[name] == layers * 2 * 8 * 4 * one["length"]
        for name, layers in {"hybrid 6+2 SSRU": 2, "hybrid 6+4 SSRU": 4, "GRU 2+2, Luong": 2}.items():
            assert bytes_of[name] == layers * 8 * 4
        assert all(system["interval"][0] <= system["ratio"] <= system["interval"][1] for system in
                   one["systems"].values())  # fmt: skip
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(name in printed for name in SYSTEMS)
    with pytest.raises(ValueError, match="give it another --output"):
        run(monkeypatch, tmp_path, "--lengths 2 --batches 1 --add --threads 2")


def test_bad_words(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"--lengths is \[0\]; it must be 1 or more"):
        run(monkeypatch, tmp_path, "--lengths 0")
    with pytest.raises(ValueError, match="rounds is 2"):
        run(monkeypatch, tmp_path, "--rounds 2")
