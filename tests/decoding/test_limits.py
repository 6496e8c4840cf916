"""Models whose positions end: what is too long is refused by its number, and writing stops in time."""

import io
import sys

import pytest
from helpers.others import OTHERS, POSITIONS, save_other
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from seqloom import stream, translate
from seqloom.__main__ import main
from seqloom.attention.attend import attend
from seqloom.decoding.limits import source_positions, target_positions, within_positions
from seqloom.decoding.loading import load_model, tokenizer_of

ENDS = {"marian": 1, "bart": 1, "bert2bert": 2}  # special tokens of a text


def text(tokens: int) -> str:
    return " ".join("abcdefgh"[number % 8] for number in range(tokens))


@pytest.fixture(scope="module", params=OTHERS)
def other(request, tmp_path_factory):
    """Name, folder, model and tokenizer."""
    folder = str(save_other(request.param, tmp_path_factory.mktemp("other")))
    model = load_model(folder)
    return request.param, folder, model, tokenizer_of(model, folder)


def test_as_long_as_the_positions_reach(other):
    """Sources, outputs and given targets of just that length; one token more is refused, or not written."""
    name, _, model, tokenizer = other
    fits = text(POSITIONS - ENDS[name])
    assert source_positions(model) == target_positions(model) == POSITIONS
    found = translate(model, tokenizer, fits, return_hypotheses=True, max_new_tokens=500, suppress_tokens=[2, 3])
    assert len(found.target_tokens) == POSITIONS
    found = translate(model, tokenizer, fits, return_hypotheses=True, max_length=500, suppress_tokens=[2, 3])
    assert len(found.target_tokens) == POSITIONS
    config = GenerationConfig(max_length=500, suppress_tokens=[2, 3], num_beams=2)
    found = translate(model, tokenizer, [fits], return_hypotheses=True, generation_config=config)
    assert len(found[0].target_tokens) == POSITIONS
    "".join(stream(model, tokenizer, fits, max_new_tokens=500))
    assert attend(model, tokenizer, fits, target=fits, words=False).output
    attend(model, tokenizer, fits, max_new_tokens=500, suppress_tokens=[2, 3])
    more = f"{fits} a"
    message = rf"has {POSITIONS + 1} tokens, but {type(model).__name__} has positions for {POSITIONS} only: shorten"
    for call in (translate, stream, attend):
        with pytest.raises(ValueError, match=f"the source {message}"):
            call(model, tokenizer, more)
    with pytest.raises(ValueError, match=f"the target {message}"):
        attend(model, tokenizer, fits, target=more)


def test_number_of_the_source(other):
    """Of lists before anything is decoded, of iterators when its turn comes."""
    _, _, model, tokenizer = other
    texts = ["a", "b", "c", text(POSITIONS), "d"]
    message = rf"^source 4 .counted from 1. has \d+ tokens, .* positions for {POSITIONS} only: shorten or split it"
    for options in ({}, {"read_ahead": 2}):
        with pytest.raises(ValueError, match=message):
            translate(model, tokenizer, texts, max_new_tokens=2, **options)
    outputs = translate(model, tokenizer, iter(texts), read_ahead=2, max_new_tokens=2)
    assert len([next(outputs), next(outputs)]) == 2
    with pytest.raises(ValueError, match=message):
        next(outputs)


def test_commands_name_the_line(other, tmp_path, monkeypatch, capsys):
    _, folder, _, _ = other
    lines = ["a b", "c", text(POSITIONS)]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("source,target\n" + "".join(f"{line},A\n" for line in lines))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    scored = tmp_path / "scored"
    words = ["--max_new_tokens", "300"]
    for command in (
        ["evaluate", folder, "--test_files", str(pairs), "--output_dir", str(scored), "--metrics", "chrf", *words],
        ["translate", folder, *words],
        ["attend", folder, lines[-1], "--output", str(tmp_path / "map.png")],
    ):
        assert main(command) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: the source" if command[0] == "attend" else "error: source 3 (counted from 1)")
    assert not scored.exists()
    pairs.write_text("source,target\na b,A B\nc,C\n")
    assert main(["evaluate", folder, "--test_files", str(pairs), "--output_dir", str(scored), "--metrics", "chrf"]) == 0


def test_models_without_an_end():
    """Relative positions, tables that grow, and those that count otherwise."""
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    assert source_positions(t5) is target_positions(t5) is None
    assert within_positions(t5, {"max_new_tokens": 5000}) == {"max_new_tokens": 5000}
    sizes = {"vocab_size": 9, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}  # fmt: skip
    growing = M2M100ForConditionalGeneration(M2M100Config(**sizes, max_position_embeddings=16))
    assert source_positions(growing) is target_positions(growing) is None
    bart = BartForConditionalGeneration(BartConfig(**sizes, max_position_embeddings=16))
    assert source_positions(bart) == target_positions(bart) == 16
    roberta = RobertaConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=18,
    )  # fmt: skip
    both = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(roberta, roberta))
    assert source_positions(both) == target_positions(both) == 16
