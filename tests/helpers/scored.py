"""Untrained models, their data and the files that scoring writes."""

import json
import random
from pathlib import Path

import torch
import transformers

from seqloom.data.tokenization import train_tokenizer
from seqloom.modeling import CONFIG_CLASSES
from seqloom.settings.schema import DataSettings, EvaluationSettings, Settings, TokenizerSettings, TrainingSettings

LETTERS = "abcdefgh"


SIZES = {
    "rnn_seq2seq": {"hidden_size": 16, "init_range": 1.5},
    "transformer_seq2seq": {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    },
}  # fmt: skip
SIZES["hybrid_seq2seq"] = SIZES["transformer_seq2seq"]


def sentences(count: int, longest: int = 12) -> list[str]:
    words = random.Random(count)
    return ["".join(words.choices(LETTERS, k=words.randint(1, longest))) for _ in range(count)]


def make_tokenizer(shared: bool = True, letters: str = LETTERS):
    return train_tokenizer([letters], [letters.upper()], TokenizerSettings(kind="char", shared=shared))


def untrained(config, cls, noise: float = 0.6):
    """A model whose outputs differ from source to source: its matrices are far from zero."""
    torch.manual_seed(3)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise if parameter.dim() > 1 else 0)
    return model


def make_model(tokenizer, family: str = "transformer_seq2seq", **fields):
    target = getattr(tokenizer, "target_tokenizer", tokenizer)
    config = CONFIG_CLASSES[family](
        vocab_size=len(tokenizer), decoder_vocab_size=len(target),
        share_encoder_decoder_embeddings=target is tokenizer, **{**SIZES[family], **fields},
    )  # fmt: skip
    model = untrained(config, transformers.AutoModelForSeq2SeqLM.from_config(config).__class__)
    model.generation_config.max_new_tokens = 9
    return model


def write(folder: Path, name: str, sources: list[str], targets: list[str] | None = None) -> list[str]:
    targets = [source[::-1].upper() for source in sources] if targets is None else targets
    paths = [folder / f"{name}.{side}" for side in ("source", "target")]
    for path, texts in zip(paths, (sources, targets), strict=True):
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return [str(path) for path in paths]


def scored_folder(tmp_path: Path) -> Path:
    """A model folder as training leaves it, with the settings of its run; validation is cut with the seed 7."""
    tokenizer, place = make_tokenizer(), tmp_path / "model"
    make_model(tokenizer).save_pretrained(place)
    tokenizer.save_pretrained(place)
    data = DataSettings(
        train_files=write(tmp_path, "train", sentences(60)), test_files=write(tmp_path, "test", sentences(11))
    )
    settings = Settings(
        output_dir="runs/x", model={"model_type": "transformer_seq2seq"}, data=data,
        training=TrainingSettings(seed=7, max_steps=1),
        evaluation=EvaluationSettings(metrics=["chrf", "cer"], metric_kwargs={"chrf": {"word_order": 2}}),
    )  # fmt: skip
    settings.save(place / "settings.yaml")
    return place


def read(folder: Path) -> tuple[dict, list[dict]]:
    """Scores and predictions."""
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return scores, [json.loads(line) for line in lines]


def keep(path: Path, hypotheses: list[str], sources: list[str] | None = None) -> Path:
    """A file of predictions."""
    sources = sentences(len(hypotheses)) if sources is None else sources
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"source": source, "reference": source[::-1].upper(), "hypothesis": hypothesis}
        for source, hypothesis in zip(sources, hypotheses, strict=True)
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path
