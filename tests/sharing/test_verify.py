"""A model that was pushed decodes again what was scored, however that was decoded."""

import json

import huggingface_hub
import pytest
from helpers.scored import scored_folder
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from seqloom.decoding.loading import load_model, tokenizer_of
from seqloom.scoring import score
from seqloom.settings.reading import load_run_settings
from seqloom.sharing.verify import load_pushed, reproduce

pytestmark = pytest.mark.slow
DRAWN = ["--generate_kwargs", "{do_sample: true, temperature: 3.0}", "--seed", "5"]


@pytest.fixture
def folder(tmp_path):
    return scored_folder(tmp_path)


@pytest.mark.parametrize(
    "words", [[], ["--num_beams", "3"], ["--decode_dtype", "int8"], DRAWN], ids=["greedy", "beams", "int8", "drawn"]
)
def test_decoded_again(folder, words):
    """Also what only seqloom's own search gives: outputs that were drawn, or computed coarsely."""
    scores = score.evaluate_model(str(folder), [*words, "--split", "test"])
    name = load_model(str(folder)).config.auto_map["AutoModelForSeq2SeqLM"]
    model = get_class_from_dynamic_module(name, str(folder)).from_pretrained(folder)  # as strangers get it
    assert type(model) is not type(load_model(str(folder)))
    tokenizer = tokenizer_of(model, str(folder))
    settings, record = load_run_settings(folder), {"evaluation": scores}
    assert reproduce(folder, record, settings, model, tokenizer) == (11, 11)
    if words == DRAWN:
        scores["generation"]["seed"] = 6
        with pytest.raises(ValueError, match="pushed, but without scores"):
            reproduce(folder, record, settings, model, tokenizer)


@pytest.mark.parametrize("lacking", ["AutoModelForSeq2SeqLM", None], ids=["class", "map"])
def test_a_model_that_only_seqloom_could_load(hub, folder, lacking):
    """Its code is there, and nobody is told of it."""
    with hub.client(hub.WRITE):
        load_model(str(folder)).push_to_hub("me/model")
        tokenizer_of(load_model(str(folder)), str(folder)).push_to_hub("me/model")
        load_pushed("me/model", "main")
        config = json.loads(hub["me/model"].files()["config.json"])
        config["auto_map"] = {key: name for key, name in config["auto_map"].items() if lacking and key != lacking}
        huggingface_hub.upload_file(
            repo_id="me/model", path_or_fileobj=json.dumps(config).encode(), path_in_repo="config.json"
        )
        with pytest.raises(
            ValueError, match=r"config.json of me/model at main names no class for AutoModelForSeq2SeqLM"
        ):
            load_pushed("me/model", "main")
