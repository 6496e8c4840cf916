"""A model that was pushed decodes again what was scored, however that was decoded."""

import pytest
from helpers.scored import scored_folder
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from seqloom.decoding.loading import load_model, tokenizer_of
from seqloom.scoring import score
from seqloom.settings.reading import load_run_settings
from seqloom.sharing.verify import reproduce

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
