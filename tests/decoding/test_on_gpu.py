"""On a GPU, where steps are recorded and replayed: the tokens of `generate` there. Run where there is one."""

import pytest
import torch
from helpers.tiny import EVERY, VOCAB, tiny

from seqloom.decoding.asked import options_for
from seqloom.decoding.engine import decoder_for
from seqloom.decoding.search import search

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
END = 2
SEARCHES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "n best": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
    "as soon as there are enough": {"num_beams": 3, "early_stopping": True},
    "to the end": {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.7},
    "long": {"num_beams": 2, "max_new_tokens": 90, "min_new_tokens": 70},
    "no bigram twice": {"num_beams": 3, "no_repeat_ngram_size": 2},
}


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """cuDNN's recurrent layers round to TF32 unless they are told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def sources(count=24, longest=20):
    """Ids of sentences of many lengths, ended."""
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [[*torch.randint(3, VOCAB, (length,), generator=generator).tolist(), END] for length in lengths]


def score(model, source, tokens, penalty):
    """Of an output, by one pass over it."""
    ids, labels = torch.tensor([source], device="cuda"), torch.tensor([tokens], device="cuda")
    start = torch.tensor([[model.config.decoder_start_token_id]], device="cuda")
    logits = model(ids, decoder_input_ids=torch.cat((start, labels[:, :-1]), 1)).logits
    return logits.log_softmax(-1).gather(-1, labels[..., None]).sum().item() / len(tokens) ** penalty


@pytest.mark.parametrize("name", EVERY)
def test_as_generate(name):
    """Or, of some, an output that is as likely: a GPU rounds otherwise in other company, and beams are close."""
    model, given = tiny(name).cuda(), sources()
    num_same = num_all = 0
    with torch.inference_mode():
        decoder = decoder_for(model)
        for kind, changes in SEARCHES.items():
            options = {"max_new_tokens": 12, **changes}
            for _ in range(2):  # the second time, recorded steps serve again
                found = dict(search(decoder, given, options_for(model, options), batch_tokens=300))
            for place, source in enumerate(given):
                ids = torch.tensor([source], device="cuda")
                rows = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, 1:].tolist()
                expected = [row[: row.index(END) + 1] if END in row else row for row in rows]
                outputs = [candidate.tokens for candidate in found[place]]
                num_same += outputs == expected
                num_all += 1
                for ours, theirs in zip(outputs, expected, strict=True):
                    penalty = options.get("length_penalty", 1.0)
                    scores = [score(model, source, tokens, penalty) for tokens in (ours, theirs)]
                    assert ours == theirs or abs(scores[0] - scores[1]) < 1e-2, (kind, ours, theirs, scores)
    assert num_same > 0.9 * num_all


def test_sampling():
    """Every replay draws anew, and a seed gives the same again."""
    model, given = tiny("rotary").cuda(), [[5, 9, END]] * 200
    decoder = decoder_for(model)
    options = options_for(model, {"do_sample": True, "top_k": 0, "max_new_tokens": 8})
    runs = []
    with torch.inference_mode():
        for seed in (0, 1, 1, 2):
            torch.manual_seed(seed)
            runs.append([found[0].tokens for _, found in sorted(dict(search(decoder, given, options)).items())])
    assert runs[1] == runs[2] != runs[3]
    assert len({tuple(tokens) for tokens in runs[1]}) > 50
