"""Which files of code are seqloom's own."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from helpers.tiny import tiny

from seqloom.sharing import code
from seqloom.version import __version__

MODELING = Path(__file__).parents[2] / "modeling"


def test_saved_folders_are(tmp_path):
    """Of every file that they carry, and by their content alone."""
    tiny("gru").save_pretrained(tmp_path)
    carried = {path.name for path in tmp_path.glob("*.py")}
    assert "modeling_rnn_seq2seq.py" in carried
    assert code.code_files(tmp_path) >= carried
    assert code.foreign_code(tmp_path) == []
    (tmp_path / "notes.py").write_text("nothing names it")
    assert code.foreign_code(tmp_path) == []
    (tmp_path / "modeling_seq2seq.py").unlink()  # the repository may have another one
    assert code.foreign_code(tmp_path) == ["modeling_seq2seq.py"]


def test_a_config_that_says_something_else_of_code(tmp_path):
    (tmp_path / "config.json").write_text('{"custom_pipelines": {"a": "file.Class"}}')
    assert code.references(tmp_path) == ["file.Class"]
    (tmp_path / "config.json").write_text('{"auto_map": ["x"]}')
    with pytest.raises(ValueError, match=r"config\.json has auto_map \['x'\]; it must hold names and values"):
        code.references(tmp_path)


def test_the_table_of_released_versions():
    """Digests by version and file; those of this version, once it is in it, are of the files as they are."""
    table = yaml.safe_load(files("seqloom.sharing").joinpath("released_code.yaml").read_text(encoding="utf-8")) or {}
    for entry in table.values():
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in entry.values())
    ours = {path.name: code.sha256(path) for path in MODELING.glob("*.py")}
    assert code.own_digests() >= {*ours.values()}
    assert table.get(__version__, ours) == ours
