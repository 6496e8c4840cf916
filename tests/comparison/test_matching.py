"""Recipes of equal parameters: what is chosen comes near enough, and what cannot is refused."""

import json
from pathlib import Path

import pytest
from helpers.runs import configure

from seqloom.commands.compare import main
from seqloom.comparison.matching import SHARE, count, in_words, match, scaled
from seqloom.modeling import HybridSeq2SeqConfig, RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.settings.reading import load_settings


def made(cls, **fields):
    return lambda changes: cls(vocab_size=40, **{**fields, **changes})


RNN = made(RnnSeq2SeqConfig, hidden_size=32, embedding_size=16)
TRANSFORMER = made(
    TransformerSeq2SeqConfig, d_model=32, encoder_attention_heads=4, decoder_attention_heads=2, encoder_ffn_dim=64,
    decoder_ffn_dim=32,
)  # fmt: skip
HYBRID = made(HybridSeq2SeqConfig, d_model=32, encoder_attention_heads=4, decoder_attention_heads=4)


@pytest.mark.parametrize("make", [RNN, TRANSFORMER, HYBRID], ids=["rnn", "transformer", "hybrid"])
@pytest.mark.parametrize("wanted", [9_000, 90_000, 250_000, 3_000_000])
def test_comes_near(make, wanted):
    try:
        fields = scaled("it", make, wanted)
    except ValueError:
        assert wanted == 9_000  # steps of the heads are too wide there
    else:
        assert abs(count(make(fields)) - wanted) <= SHARE * wanted


def test_what_is_near_stays():
    assert scaled("it", RNN, round(1.04 * count(RNN({})))) == {}


def test_inner_widths_follow():
    fields = scaled("it", RNN, 4 * count(RNN({})))
    assert fields["embedding_size"] == pytest.approx(fields["hidden_size"] / 2, abs=1)


def test_what_no_width_reaches():
    with pytest.raises(ValueError, match=r"it cannot be given 9 parameters, .* to within 5%: the nearest widths have "):
        scaled("it", TRANSFORMER, 9)


def test_recipes(data, tmp_path):
    """All seeds of a recipe get the widths; the tokenizer's entries count."""
    runs = {name: [load_settings(configure(tmp_path, data, name))] for name in ("rnn", "transformer")}
    runs["transformer"] *= 2
    found, told = match(runs)
    assert found["rnn"] == runs["rnn"]
    first, second = (one["parameters"] for one in told)
    assert abs(first - second) <= SHARE * first
    assert {one.model["d_model"] for one in found["transformer"]} == {told[1]["changed"]["d_model"][1]}
    assert in_words(told)[0] == f"rnn: {first:,} parameters, as its recipe has it"
    assert in_words(told)[1].startswith(f"transformer: {second:,} parameters (d_model 8 → ")


def test_refused(data, tmp_path, capsys):
    path = configure(tmp_path, data, "rnn")
    for words, told in (
        ([path, str(tmp_path)], "is taken as trained: give configurations alone"),
        ([path], "give two configurations or more"),
    ):
        if not Path(words[-1]).suffix:
            (tmp_path / "config.json").write_text(json.dumps({"model_type": "rnn_seq2seq"}))
        assert main([*words, "--match", "parameters", "--output", str(tmp_path / "out")]) == 1
        assert told in capsys.readouterr().err
    assert main([path, "--match", "seconds"]) == 1
    assert "it can be parameters" in capsys.readouterr().err
