"""What models that are taken as they are get of a comparison's line, and measures that are kept."""

import pytest
from helpers.runs import configure

from seqloom.comparison.candidates import Options
from seqloom.comparison.compare import Request, kept_in, overrides_for, take_measure
from seqloom.settings.reading import load_scoring_settings, load_settings


@pytest.mark.parametrize(
    ("words", "split", "kept"),
    [
        ("--num_workers 2 --streaming true --test_files x y --seed 2", "test", "--test_files x y --seed 2"),
        ("--data.mix [] --dataset null --train_files a b --test_files x y", "test", "--test_files x y"),
        ("--train_files a b --validation_files c d", "test", ""),
        ("--train_files a b --validation_files c d", "validation", "--validation_files c d"),
        ("--dataset scan --test_files null --shuffle_buffer 7", "test", "--dataset scan --test_files null"),
        ("--data.weight=2 --dataset scan --data.max_source_length 9", "train", "--data.weight=2 --dataset scan"),
    ],
)  # fmt: skip
def test_what_is_for_training_stays_with_the_trainings(data, tmp_path, words, split, kept):
    settings = load_settings(configure(tmp_path, data, "rnn"))
    settings.save(tmp_path / "settings.yaml")
    request = Request(("config.yaml",), (str(tmp_path),), tmp_path / "out", tuple(words.split()), split=split)
    told = overrides_for(str(tmp_path), request, {"config": [settings]})
    assert told == [*kept.split(), "--split", split]
    load_scoring_settings(tmp_path, told)
    with pytest.raises(ValueError, match="is of no use here"):
        load_scoring_settings(tmp_path, overrides_for(str(tmp_path), request, {}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "quality.json is damaged"), ("[1]", "it holds no names and values"), ('{"seconds": 1', "is damaged"),
        ('{"seconds": 1}', "it lacks seconds or result; delete it, and it is measured anew"), ("{}", "it lacks"),
    ],
)  # fmt: skip
def test_a_damaged_measure_is_refused(tmp_path, content, said):
    """Nothing is measured over it, and nothing else is made of it."""
    path = kept_in(tmp_path, "quality")
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=said) as refusal:
        take_measure("quality", [], Options(tmp_path))
    assert str(path) in str(refusal.value)
    assert path.read_text() == content
    path.write_text('{"seconds": 2.5, "result": {"kept": true}}')
    assert take_measure("quality", [], Options(tmp_path)) == {"seconds": 2.5, "result": {"kept": True}}
