"""A metric's option or package that cannot work shows before the work."""

import importlib.util

import pytest

from seqloom.scoring.trials import try_metrics
from seqloom.settings.schema import EvaluationSettings


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("sacrebleu", {"tokenize": "zhh"}, "sacrebleu does not take .*: tokenize='zhh' is unknown; known are 13a"),
        ("sacrebleu", {"smooth_method": "no"}, "sacrebleu does not take"),
        ("sacrebleu", {"max_ngram_order": 0}, "sacrebleu"),
        ("chrf", {"word_order": "two"}, "chrf"),
        ("wer", {"nope": 1}, "wer cannot be computed with {'nope': 1}"),
        ("cer", {"predictions": []}, "cer cannot be computed"),
    ],
)
def test_arguments(name, options, said):
    with pytest.raises(ValueError, match=said):
        try_metrics(EvaluationSettings(metrics=[name], metric_kwargs={name: options}))


@pytest.mark.parametrize(("tokenize", "package"), [("ja-mecab", "MeCab"), ("ko-mecab", "mecab_ko")])
def test_packages(tokenize, package):
    settings = EvaluationSettings(metrics=["sacrebleu"], metric_kwargs={"sacrebleu": {"tokenize": tokenize}})
    if importlib.util.find_spec(package):
        assert try_metrics(settings) is None
    else:
        with pytest.raises(ValueError, match=r"cannot work with .*requires extra dependencies"):
            try_metrics(settings)


def test_those_of_validations_too():
    with pytest.raises(ValueError, match="did you mean chrf"):
        try_metrics(EvaluationSettings(), ["chrff"])
