"""The notebooks run, in an empty folder and without a network, and end with what they promise."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
pytestmark = pytest.mark.slow


@pytest.fixture(params=[path.stem for path in sorted(FOLDER.glob("*.ipynb"))], scope="module")
def executed(request, tmp_path_factory):
    """A notebook's name, its cells after they have run, and where they ran."""
    notebook = nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)
    place = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:  # the cells' `!seqloom` is that of this environment
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": place}})
        client.execute()  # an error of a cell is raised here
    return request.param, notebook.cells, place


def test_runs(executed):
    name, cells, place = executed
    text = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    results = [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]
    if name == "attention-seen":
        assert sum("image/png" in data for data in results) == 2
        assert "siebenhundert" in text
    else:
        assert (place / "shared" / "modeling_rnn_seq2seq.py").is_file()
        assert "exact_match" in text
        assert "neunzig" in results[-1]["text/plain"]


def test_is_small(executed):
    """What is committed shows what came out, and no machine's paths."""
    text = (FOLDER / f"{executed[0]}.ipynb").read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert not [place for place in ("/home/", "/root/", "/tmp/", "site-packages") if place in text]
