"""Run in a process of its own: loads models by their names, and prints as JSON what they are and what they do.

Reads ``{"without_seqloom": bool, "loads": [{"name", "parts", "say", "again", **keywords of from_pretrained}]}``.
Tests import `describe` to say the same of the models that they pushed.
"""

import hashlib
import importlib
import json
import sys

import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

TASK = "seq2seq-generation"
TEXTS = ["나는 오늘 친구를 만났습니다 !", "die Bären mögen Äpfel 🍎", "x  y ."]
TARGETS = ["I met a friend today !", "they like apples , ☃", "z"]
SEARCH = {"max_new_tokens": 7, "num_beams": 2}
PARTS = ("config", "tokenizer", "model", "base", "pipeline")


class WithoutSeqloom:
    """As on a machine where it was never installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "seqloom":
            raise ImportError(f"No module named {name!r}")


def digest(model) -> str:
    """Of all weights, bit for bit, by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def describe(part: str, loaded, model=None, tokenizer=None) -> dict:
    """What the thing does: what must be the same wherever it is loaded."""
    if part == "config":
        left_out = ("auto_map", "architectures", "dtype", "transformers_version", "custom_pipelines")
        held = {name: value for name, value in loaded.to_dict().items() if name not in left_out and name[0] != "_"}
        answers = {name: getattr(loaded, name) for name in dir(type(loaded)) if name.startswith(("has_", "name_in_"))}
        return held | answers | {"described": loaded.describe()}
    if part == "tokenizer":
        sources, targets = loaded(TEXTS).input_ids, loaded(text_target=TARGETS).input_ids
        return {
            "sources": sources,
            "targets": targets,
            "texts": loaded.batch_decode(targets, skip_special_tokens=True),
            "sizes": [len(loaded), len(getattr(loaded, "target_tokenizer", loaded))],
            "special": [loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id],
            "sides": [loaded.padding_side, loaded.truncation_side],
        }
    if part == "pipeline":
        return {"outputs": loaded(TEXTS, **SEARCH)}
    inputs = {"input_ids": torch.tensor([[5, 9, 3, 17, 4, 2], [8, 6, 2, 0, 0, 0]])}
    inputs["attention_mask"] = inputs["input_ids"].ne(0).long()
    with torch.no_grad():
        outputs = loaded(**inputs, decoder_input_ids=torch.tensor([[1, 4, 18], [1, 9, 16]]))
    told = {"digest": digest(loaded), "outputs": outputs[0].flatten().tolist(), "training": loaded.training}
    if part == "model":
        told["generated"] = loaded.generate(**inputs, **SEARCH, do_sample=False).tolist()
        told["limit"] = loaded.generation_config.max_new_tokens
    return told


def load(part: str, name: str, **keywords):
    if part == "pipeline":
        return pipeline(TASK, model=name, **keywords)
    auto = {"config": AutoConfig, "tokenizer": AutoTokenizer, "model": AutoModelForSeq2SeqLM, "base": AutoModel}[part]
    return auto.from_pretrained(name, **keywords)


def tell(name: str, parts=PARTS, again: str | None = None, say: bool = True, **keywords) -> dict:
    """Each part's class and doings, or the error; `again` is a name under which what was loaded is pushed."""
    told = {}
    for part in parts:
        try:
            loaded = load(part, name, **keywords)
        except Exception as error:  # whatever it is, the test judges it
            told[part] = {"error": f"{type(error).__name__}: {error}"}
            continue
        told[part] = {"class": f"{type(loaded).__module__}.{type(loaded).__qualname__}"}
        if say:
            told[part] |= describe(part, loaded)
        if again and part in ("model", "tokenizer"):
            loaded.push_to_hub(again)
    return told


def main() -> None:
    asked = json.load(sys.stdin)
    torch.set_num_threads(1)
    if asked["without_seqloom"]:
        sys.meta_path.insert(0, WithoutSeqloom())
    try:
        importlib.import_module("seqloom")
    except ImportError:
        found = False
    else:
        found = True
    assert found is not asked["without_seqloom"]
    assert "modeling" not in sys.modules
    print("\n" + json.dumps([tell(**load) for load in asked["loads"]]))  # transformers may have asked a question before


if __name__ == "__main__":
    main()
