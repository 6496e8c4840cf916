"""Options of ``generate``: what contradicts, is outranked, changes nothing or does not run is refused at once."""

import pytest
from transformers import GenerationConfig

from seqloom.decoding.options import check_options, limited


@pytest.mark.parametrize(
    ("config", "given", "said"),
    [
        ({}, {"num_beamz": 3}, r"num_beamz, which generate does not know; did you mean num_beams\?"),
        ({"max_new_tokens": 40}, {"max_length": 3}, "max_length is 3, but max_new_tokens, which goes before it, is 40"),
        ({}, {"max_length": 3, "max_new_tokens": 5}, "max_length is 3, but max_new_tokens.*given too"),
        ({}, {"min_length": 3, "min_new_tokens": 5}, "min_length is 3, but min_new_tokens"),
        ({"max_new_tokens": 4}, {"min_new_tokens": 5}, "min_new_tokens is 5, more than max_new_tokens, 4"),
        ({}, {"temperature": 0.5}, "temperature is 0.5, but outputs are not drawn"),
        ({}, {"top_p": 0.9, "num_beams": 4}, "top_p is 0.9, but outputs are not drawn"),
        ({}, {"length_penalty": 0.6}, "length_penalty is 0.6, which ranks beams, but generation.num_beams is 1"),
        ({"num_beams": 4}, {"early_stopping": True, "num_beams": 1}, "early_stopping is True, which ranks beams"),
        ({}, {"coverage_penalty": 0.2}, "coverage_penalty is 0.2, which ranks beams"),
        ({}, {"num_beams": 4, "num_return_sequences": 2}, "num_return_sequences is 2, but every source has one output"),
        ({"num_beams": 4, "num_return_sequences": 2}, {}, "set it to 1, since the model's own config has it"),
        ({}, {"num_beams": 4, "num_beam_groups": 3}, "num_beam_groups, of a search that transformers has no longer"),
        (
            {"num_beams": 4, "num_beam_groups": 2},
            {},
            r"own generation_config.json has num_beam_groups 2, .*_groups: null}",
        ),
        ({"penalty_alpha": 0.6}, {"num_beams": 2}, r"generation_config.json has penalty_alpha 0.6, of a search that"),
        ({"num_beam_groups": ["x"]}, {}, "generation_config.json has num_beam_groups"),
        ({}, {"num_beams": 10**9}, "num_beams is 1000000000; it must be a whole number from 1 to 10,000"),
        ({}, {"num_beams": True}, "num_beams is True; it must be a whole number"),
        ({}, {"no_repeat_ngram_size": "two"}, "no_repeat_ngram_size is 'two'; it must be a whole number"),
        ({}, {"repetition_penalty": float("nan")}, "repetition_penalty is nan; it must be a number"),
        ({}, {"do_sample": True, "top_p": 2.0}, "top_p is 2.0; it must be between 0 and 1"),
        ({}, {"do_sample": True, "temperature": 0.0}, "temperature is 0.0; it must be more than 0"),
        ({}, {"do_sample": True, "typical_p": 0}, "typical_p is 0; it must be more than 0"),
        ({}, {"do_sample": True, "eta_cutoff": 1.0}, "eta_cutoff is 1.0; it must be less than 1, or 0 for none"),
        ({}, {"repetition_penalty": -1.0}, "repetition_penalty is -1.0; it must be more than 0"),
        ({}, {"do_sample": "yes"}, "do_sample is 'yes'; it must be true or false"),
    ],
)
def test_refused(config, given, said):
    with pytest.raises(ValueError, match=said):
        check_options(GenerationConfig(**config), given)


@pytest.mark.parametrize(
    ("config", "given"),
    [
        ({"num_beams": 5, "length_penalty": 0.6}, {"num_beams": 1}),  # what is not given may lose its use
        ({"max_length": 512}, {"max_new_tokens": 30}),  # which goes before it, as transformers says
        ({}, {"do_sample": True, "temperature": 0.7, "top_k": 0}),
        ({"do_sample": True}, {"temperature": 0.7}),
        ({"num_beams": 4, "num_beam_groups": 2}, {"num_beam_groups": None}),
        ({"num_beam_groups": 1, "diversity_penalty": 0.0, "low_memory": False, "constraints": None}, {}),
        ({}, {"num_beams": 3, "length_penalty": 0.6, "early_stopping": True, "coverage_penalty": 0.2}),
        ({}, {"length_penalty": 1.0, "early_stopping": False, "temperature": None}),
    ],
)
def test_allowed(config, given):
    assert check_options(GenerationConfig(**config), given) is None


def test_a_length_goes_before_that_of_our_models():
    """As in their `generate`; what is given twice, or no output can keep to, is refused of them too."""
    config = GenerationConfig(max_new_tokens=4, min_new_tokens=2)
    check_options(config, {"max_length": 9, "min_length": 5}, is_own=True)
    with pytest.raises(ValueError, match=r"max_length is 3, but max_new_tokens.*given too"):
        check_options(config, {"max_length": 3, "max_new_tokens": 5}, is_own=True)
    with pytest.raises(ValueError, match=r"max_length is 9, but max_new_tokens.*the model's own"):
        check_options(config, {"max_length": 9})


def test_several_outputs_where_they_are_wanted():
    assert check_options(GenerationConfig(), {"num_beams": 3, "num_return_sequences": 3}, several=True) is None


def test_one_limit_of_length_for_all_who_decode():
    assert limited(GenerationConfig(), {}) == {"max_new_tokens": 256}
    assert limited(GenerationConfig(max_new_tokens=7), {}) == {}
    assert limited(GenerationConfig(max_length=7), {"num_beams": 2}) == {"num_beams": 2}
    assert limited(GenerationConfig(), {"max_length": 5}) == {"max_length": 5}
