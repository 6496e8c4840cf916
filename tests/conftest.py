"""What every test shares: no network, nothing of the user's caches, one thread, tiny models of all families."""

import gc
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("helpers")  # whose assertions then say what they compared

HOME = tempfile.mkdtemp(prefix="seqloom-tests-")
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_CACHE"))]:
    del os.environ[name]
os.environ |= {"HF_HOME": HOME, "HF_DATASETS_CACHE": os.path.join(HOME, "datasets"), "HF_HUB_OFFLINE": "1"}

# Libraries below torch have threads of their own, which wait busily for each other while all cores are at work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The Hugging Face libraries read the environment when they are imported, and so does torch.
import datasets  # noqa: E402
import torch  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from helpers import quick  # noqa: E402
from helpers.hub_server import Hub  # noqa: E402
from helpers.runs import write_pairs  # noqa: E402
from helpers.tiny import EVERY, RNNS, TRANSFORMERS, tiny  # noqa: E402

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a script, where a shell has it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
quick.reserve_all()


gc.set_threshold(100_000, 50, 100)  # a fifth of the suite's time was the search for garbage among libraries' objects


def pytest_collection_finish():
    """What is there now stays: nobody looks through it again."""
    gc.collect()
    gc.freeze()


LONG = (
    "test_guest_family", "test_distributed", "test_recovery", "test_signals", "test_search", "test_to_onnx",
    "test_shell", "test_in_use", "test_checkpoints", "test_comparison", "test_comparison_weight", "test_notebooks",
    "test_generation", "test_translate", "test_generate_engine", "test_comparison_attention", "test_restoring",
    "test_trainer", "test_jobs", "test_sharing", "test_pushed_models", "test_to_torch", "test_export", "test_models",
)  # fmt: skip
"""Files of a minute or so, which begin first, so that none of them is left to one process at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Long files first; comparisons train and measure throughout."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    for item in items:
        if "comparison" in item.path.parts or item.path.stem == "test_guest_family":
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    quick.enter(item)
    try:
        return (yield)
    finally:
        quick.leave()


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    torch.manual_seed(0)
    if torch.get_num_threads() != 1:  # a run before had its own
        torch.set_num_threads(1)


@pytest.fixture(params=list(EVERY))
def model(request):
    """Every tiny model."""
    return tiny(request.param)


@pytest.fixture(params=list(RNNS))
def rnn(request):
    """Every recurrent one."""
    return tiny(request.param)


@pytest.fixture(params=list(TRANSFORMERS))
def transformer(request):
    """Every Transformer."""
    return tiny(request.param)


@pytest.fixture
def fresh_accelerator():
    """Accelerate holds one state a process, and a run changes the random states."""
    datasets.disable_progress_bars()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    datasets.enable_progress_bars()


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The files of a run's splits: training data large enough to learn the task from, and a handful for all else."""
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 1500, "few": 60, "validation": 51, "test": 31}
    return {name: write_pairs(folder, name, size) for name, size in sizes.items()}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What asks for more than the machine has is refused by the system, not by the machine's end."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def hub():
    """A Hub of the test's own, on this machine."""
    with Hub() as hub:
        yield hub


def pytest_unconfigure():
    shutil.rmtree(HOME, ignore_errors=True)
