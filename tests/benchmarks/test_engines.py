"""Engines that must write what `generate` writes do, one by one and side by side; the others say why they do not."""

import engines
import pytest
import torch
from decoding_speed import SPECIAL, save_random
from engines import ENGINES, STOCK, NotHere, Search, load_engine
from helpers.tiny import SOURCES, tiny

from seqloom import TransformerSeq2SeqConfig

SEARCHES = [
    Search(beams, batch, max_new_tokens=8, min_new_tokens=least)
    for beams in (1, 3)
    for batch in (1, 3)
    for least in (0, 8)
]


def saved(folder, name, **changes):
    tiny(name, **changes).save_pretrained(folder)
    return folder


def outputs(name, folder, search):
    return load_engine(name, folder, folder, [1])(SOURCES, search, 1)


class TestOutputs:
    @pytest.mark.parametrize("search", SEARCHES, ids=str)
    @pytest.mark.parametrize("name", ["seqloom float32", "MarianMTModel"])
    def test_of_a_transformer(self, name, search, tmp_path):
        folder = saved(tmp_path, "post-norm")
        expected = outputs(STOCK, folder, search)
        assert outputs(name, folder, search) == expected
        assert {len(ids) for ids in expected} == {8} or not search.min_new_tokens

    @pytest.mark.parametrize("cell", ["gru-bahdanau", "lstm-luong"])
    def test_of_recurrent_models(self, cell, tmp_path):
        folder = saved(tmp_path, cell)
        for search in SEARCHES:
            assert outputs("seqloom float32", folder, search) == outputs(STOCK, folder, search)

    @pytest.mark.parametrize("name", ["seqloom bfloat16", "seqloom int8"])
    def test_of_less_precision_are_outputs(self, name, tmp_path):
        found = outputs(name, saved(tmp_path, "post-norm"), SEARCHES[0])
        assert all(0 < len(ids) <= 8 for ids in found)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=[pytest.mark.long] if engine.dtype == "int8" or "onnx" in name else [])
            for name, engine in ENGINES.items()
            if engine.packages
        ],
    )
    def test_of_what_is_exported(self, name, tmp_path):
        save_random(TransformerSeq2SeqConfig(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=2,
                                             encoder_attention_heads=2, decoder_attention_heads=2, **SPECIAL),
                    tmp_path / "model")  # fmt: skip
        try:
            decode = load_engine(name, tmp_path / "model", tmp_path, [1])
        except NotHere as reason:
            pytest.skip(str(reason))
        found, expected = decode(SOURCES, SEARCHES[-1], 1), outputs(STOCK, tmp_path / "model", SEARCHES[-1])
        assert [len(ids) for ids in found] == [8] * len(SOURCES)
        assert found == expected or ENGINES[name].dtype == "int8"

    def test_end_is_kept_and_nothing_behind_it(self):
        assert engines.up_to_end([4, 2, 0, 0], 2) == [4, 2]
        assert engines.up_to_end([4, 5], 2) == [4, 5]

    def test_threads(self, tmp_path):
        decode = load_engine(STOCK, saved(tmp_path, "post-norm"), tmp_path, [1, 2])
        before = torch.get_num_threads()
        try:
            decode(SOURCES, SEARCHES[0], 2)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)


class TestRefusals:
    @pytest.mark.parametrize("name", ["pre-norm", "rotary", "untied-unscaled", "gru-bahdanau"])
    def test_marian_has_no_such_layers(self, name, tmp_path):
        with pytest.raises(NotHere, match="post-norm"):
            outputs("MarianMTModel", saved(tmp_path, name), SEARCHES[0])

    def test_what_is_not_installed(self, tmp_path, monkeypatch):
        absent = engines.Engine(engines.load_generate, "float32", ("no_such_package",))
        monkeypatch.setitem(ENGINES, "absent", absent)
        with pytest.raises(NotHere, match="no_such_package is not installed"):
            load_engine("absent", tmp_path, tmp_path, [1])
