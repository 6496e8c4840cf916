"""What ``seqloom doctor`` looks at: the installation, the devices and their speed, the Hub, the disk, the fonts.

Nothing here takes libraries for granted: whatever is missing or damaged is a finding, with the command that mends it.
"""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from seqloom.support.wording import listing, together
from seqloom.version import __version__

OK: Final = "ok"
OPTIONAL: Final = "optional"
"""Something that is not there, and that nobody needs who does not ask for it."""
TO_MEND: Final = "to mend"
BROKEN: Final = "broken"
"""Something that seqloom needs is."""
FOR_DEVELOPERS = ("dev", "docs", "test")
"""Extras that nobody needs who uses seqloom."""
DEADLINE = 8.0
"""Seconds after which an extra's import is no longer waited for."""
PATIENCE = 3.0
"""Seconds that the Hub may take to answer."""
LEAST_FREE = 2 * 2**30
"""Bytes of a disk."""
LETTERS = {"Hangul": "한글", "Han characters": "漢字", "kana": "かな"}
CANNOT_IMPORT = (ImportError, OSError, RuntimeError, AttributeError, ValueError, TypeError)
"""What damaged or mismatched packages raise when they are imported."""


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    name: str
    status: Literal["ok", "optional", "to mend", "broken"]
    says: str
    mend: str | None = None
    """The command that mends it, or gets what is not there."""


def checkup() -> Iterator[Finding]:
    """All findings, one after the other."""
    started = time.monotonic()
    extras = start_extras()
    answer = ask_hub()
    try:
        broken = False
        for finding in required():
            broken |= finding.status == BROKEN
            yield finding
        yield on_the_path()
        if not broken:
            yield models()
            yield from processor()
            yield from accelerators()
            yield fonts()
            yield hub(answer)
        yield from disk()
        yield compiler()
        yield from imported(extras, started + DEADLINE)
    finally:
        for process in extras.values():
            process.kill()
            process.wait()


def pip(*what: str) -> str:
    """The command that installs something into this very Python."""
    return shlex.join([sys.executable, "-m", "pip", "install", *what])


def requirements(extra: str | None = None) -> list[Any]:
    """What seqloom requires, or an extra of it: ``packaging.requirements.Requirement``s."""
    from packaging.requirements import Requirement

    every = [Requirement(text) for text in metadata.requires("seqloom") or ()]
    if extra is None:
        return [one for one in every if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [one for one in every if one.marker and "extra" in str(one.marker) and one.marker.evaluate({"extra": extra})]


def lacking(extra: str | None = None) -> list[str]:
    """Of the requirements, those that are missing or of another version, in words."""
    found = []
    for one in requirements(extra):
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            found.append(f"{one.name} is not installed")
            continue
        if not one.specifier.contains(version, prereleases=True):
            found.append(f"{one.name} is {version}, and {one.specifier} is needed")
    return found


def required() -> Iterator[Finding]:
    """The packages without which nothing goes: there, of the right versions, and whole."""
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("seqloom", OK, f"{__version__} in {Path(__file__).parents[1]}; {system}")
    try:
        wrong = lacking()
    except (ImportError, metadata.PackageNotFoundError) as error:
        yield Finding(
            "packages", BROKEN, f"what seqloom requires cannot be read ({error})", pip("seqloom", "packaging")
        )
        return
    if wrong:
        names = [
            str(one).partition(";")[0] for one in requirements() if any(w.startswith(f"{one.name} ") for w in wrong)
        ]
        yield Finding("packages", BROKEN, together(wrong), pip(*names))
        return
    main = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "huggingface_hub")
    told = ", ".join(f"{name} {metadata.version(name)}" for name in main)
    for name in (*main, "evaluate", "pyarrow", "sacrebleu", "safetensors", "jiwer", "matplotlib"):
        try:
            importlib.import_module(name)
        except CANNOT_IMPORT as error:
            said = " ".join(str(error).split())[:200]
            yield Finding("packages", BROKEN, f"{name} cannot be imported ({said})", pip("--force-reinstall", name))
            return
    yield Finding("packages", OK, f"{told}, and {len(requirements()) - len(main)} others as required")


def on_the_path() -> Finding:
    """Whether the word ``seqloom`` starts this one."""
    found, own = shutil.which("seqloom"), Path(sys.executable).parent
    if found is not None and Path(found).parent == own:
        return Finding("command", OK, f"seqloom is {found}")
    activate = own / "activate"
    mend = f". {shlex.quote(str(activate))}" if activate.is_file() else f'export PATH={shlex.quote(str(own))}:"$PATH"'
    says = "the shell does not find seqloom" if found is None else f"seqloom is another one's: {found}"
    return Finding("command", TO_MEND, says, mend)


def models() -> Finding:
    """Whether a model of each kind, however small, is made, and decodes alike by `generate` and by our own search."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from seqloom.decoding.asked import options_for
    from seqloom.decoding.engine import decoder_for
    from seqloom.decoding.search import search
    from seqloom.modeling import CONFIG_CLASSES

    sizes = {"hidden_size": 8, "embedding_size": 8, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("attention_heads", "ffn_dim")}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)  # found once, or never
            for config in CONFIG_CLASSES.values():
                fields: dict[str, Any] = {
                    name: value for name, value in sizes.items() if name in config.__dataclass_fields__
                }
                model = AutoModelForSeq2SeqLM.from_config(config(vocab_size=99, **fields)).eval()
                for parameter in model.parameters():
                    torch.nn.init.normal_(parameter)  # so that what comes before decides about what follows
                source, asked = [4, 5, 6, 2], {"max_new_tokens": 6, "min_new_tokens": 6}
                theirs = model.generate(torch.tensor([source]), **asked)[0, 1:].tolist()
                ((_, (ours, *_)),) = search(decoder_for(model), [source], options_for(model, asked))
                if ours.tokens != theirs:
                    says = f"{config.model_type} decodes {ours.tokens} by itself and {theirs} by transformers' generate"
                    return Finding("models", BROKEN, says, pip("--force-reinstall", "seqloom"))
    except CANNOT_IMPORT as error:
        return Finding("models", BROKEN, " ".join(str(error).split())[:200], pip("--force-reinstall", "seqloom"))
    return Finding("models", OK, f"{listing(CONFIG_CLASSES)} are made, and decode as generate does")


def processor() -> Iterator[Finding]:
    """The CPU, its threads, and how fast it multiplies matrices."""
    import torch

    from seqloom.support.machine import available_cores, cpu_name, total_memory

    threads, cores, memory = torch.get_num_threads(), available_cores(), total_memory()
    size = f", {memory / 2**30:.0f} GiB of memory" if memory else ""
    says, told = f"{cpu_name()}, {cores} cores to use, {threads} threads{size}", os.environ.get("OMP_NUM_THREADS")
    quota = cpu_quota()
    if quota is not None and threads > max(1.0, quota):
        most = max(1, int(quota))
        says += f"; but the container may use {quota:g} of them: more threads only wait for each other"
        yield Finding("processor", TO_MEND, says, f"export OMP_NUM_THREADS={most}")
    elif told is not None and threads < cores:
        says += f", as OMP_NUM_THREADS ({told}) has it; training takes num_threads or all cores in any case"
        yield Finding("processor", TO_MEND, says, "unset OMP_NUM_THREADS")
    else:
        yield Finding("processor", OK, says)
    yield Finding("its speed", OK, speed_of_processor())


def cpu_quota() -> float | None:
    """Cores that the control group of a container grants; None where it sets no limit or there is none."""
    file = Path("/sys/fs/cgroup/cpu.max")
    if not file.is_file():
        return None
    quota, period = file.read_text(encoding="utf-8").split()
    return None if quota == "max" else int(quota) / int(period)


def speed_of_processor() -> str:
    """Products of a linear layer by torch and by oneDNN, in float32 and in bfloat16, and what follows."""
    from seqloom.support.layers import MARGIN, speeds_of_products

    single, half, by_onednn = speeds_of_products()
    says = f"{single:,.0f} GFLOP/s in float32"
    if by_onednn is not None:
        matters = single <= MARGIN * by_onednn
        way = "trainings in float32 take it (training.fast_layers)" if matters else "torch's own is as good here"
        says += f", {by_onednn:,.0f} by oneDNN: {way}"
    gain = half / max(single, by_onednn or 0.0)
    advice = "--mixed_precision bf16 pays" if gain > 1.2 else "--mixed_precision bf16 does not pay"
    return f"{says}; {half:,.0f} in bfloat16: {advice}"


def accelerators() -> Iterator[Finding]:
    """GPUs and the like, or why there is none."""
    import torch

    from seqloom.support.machine import device_name, synchronise

    if not torch.accelerator.is_available():
        has_driver = shutil.which("nvidia-smi") is not None
        if not has_driver:
            yield Finding("accelerator", OK, "none: everything is computed on the processor")
        elif torch.version.cuda is None:
            mend = f"{pip('uv')} && uv pip install --reinstall torch --torch-backend auto"
            yield Finding("accelerator", TO_MEND, "there is a GPU's driver, but this torch is for CPUs alone", mend)
        else:
            says = f"torch is built for CUDA {torch.version.cuda} and finds no GPU that it can use"
            yield Finding("accelerator", TO_MEND, f"{says}: what does the driver say?", "nvidia-smi")
        return
    kind = torch.accelerator.current_accelerator()
    assert kind is not None  # there is one
    for index in range(torch.accelerator.device_count()):
        device = torch.device(kind.type, index)
        told = device_name(device)
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            told += f", {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        rates = []
        for dtype in (torch.float32, torch.bfloat16):
            square = torch.ones(4096, 4096, device=device, dtype=dtype)
            for _ in range(2):  # the first one warms up
                started = time.perf_counter()
                square @ square
                synchronise(device)
            rates.append(2 * 4096**3 / (time.perf_counter() - started) / 1e12)
        yield Finding(f"{device}", OK, f"{told}; {rates[0]:,.0f} TFLOP/s in float32, {rates[1]:,.0f} in bfloat16")


def fonts() -> Finding:
    """Whether pictures of attention can be labelled in scripts that matplotlib's own font has not."""
    from seqloom.figures.fonts import font_families

    missing = [script for script, letters in LETTERS.items() if font_families(letters)[1]]
    if not missing:
        return Finding("fonts", OK, f"pictures have {together(list(LETTERS))}")
    managers = {
        "apt-get": "apt-get install -y fonts-noto-cjk", "dnf": "dnf install -y google-noto-sans-cjk-fonts",
        "apk": "apk add font-noto-cjk", "pacman": "pacman -S noto-fonts-cjk",
    }  # fmt: skip
    mend = next((line for name, line in managers.items() if shutil.which(name)), "install Noto Sans CJK")
    return Finding("fonts", TO_MEND, f"no installed font has {together(missing)}: pictures would show boxes", mend)


def disk() -> Iterator[Finding]:
    """Room for runs here, and for what the Hugging Face libraries keep."""
    here = Path.cwd()
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    for name, folder, way in (("disk here", here, "cd"), ("cache", cache, "export HF_HOME=")):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        says = f"{folder}: {free / 2**30:,.1f} GiB free"
        if not os.access(there, os.W_OK):
            mend = 'cd "$HOME"' if way == "cd" else 'export HF_HOME="$HOME/huggingface"'
            yield Finding(name, TO_MEND, f"{says}, but nothing can be written there", mend)
        elif free < LEAST_FREE:
            mend = "hf cache prune" if name == "cache" else f"du -sh {shlex.quote(str(folder))}/*"
            yield Finding(name, TO_MEND, f"{says}, which a large data set or model fills", mend)
        else:
            yield Finding(name, OK, says)


def compiler() -> Finding:
    """What ``seqloom translate --compile`` and ``seqloom export --to torch`` need, and nothing else."""
    found = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if found:
        return Finding("compiler", OK, f"{found}, for --compile and exports to torch")
    mend = "apt-get install -y g++" if shutil.which("apt-get") else "xcode-select --install"
    return Finding("compiler", OPTIONAL, "no C++ compiler, which --compile and exports to torch need", mend)


def ask_hub() -> list[Any]:
    """Asks the Hub who one is, beside everything else; the answer (status, name) or error is appended when it comes."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            from huggingface_hub import constants, get_token
            from huggingface_hub.errors import HTTPError
            from huggingface_hub.utils import build_hf_headers, get_session
        except CANNOT_IMPORT as error:
            answer.append(error)
            return
        if constants.HF_HUB_OFFLINE:
            return
        path = "/api/whoami-v2" if get_token() else "/"
        try:
            got = get_session().get(
                f"{constants.ENDPOINT}{path}", headers=build_hf_headers(), timeout=PATIENCE, follow_redirects=True
            )
            name = got.json().get("name") if path != "/" and got.status_code == 200 else None
            answer.append((got.status_code, name))
        except (HTTPError, OSError, ValueError) as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # a name server that is silent holds nobody
    thread.start()
    answer_by = time.monotonic() + 2 * PATIENCE
    return [answer, thread, answer_by]


def hub(asked: Sequence[Any]) -> Finding:
    """Whether the Hub is there, and knows who one is."""
    from huggingface_hub import constants, get_token

    answer, thread, until = asked
    if constants.HF_HUB_OFFLINE:
        return Finding("Hub", OK, "offline, as HF_HUB_OFFLINE has it: only what is in the cache is found")
    thread.join(max(0.0, until - time.monotonic()))
    where = constants.ENDPOINT
    if not answer or isinstance(answer[0], Exception):
        why = " ".join(str(answer[0]).split())[:120] if answer else f"no answer within {2 * PATIENCE:.0f} s"
        says = f"{where} is not reached ({why}): what is here already works"
        return Finding("Hub", TO_MEND, says, "export HF_HUB_OFFLINE=1")
    status, name = answer[0]
    if get_token() is None:
        return Finding("Hub", OPTIONAL, f"{where} answers; not logged in, which pushing needs", "hf auth login")
    if status == 200 and name:
        return Finding("Hub", OK, f"{where} knows you as {name}")
    return Finding("Hub", TO_MEND, f"{where} answers {status}: it does not take your token", "hf auth login --force")


def every_extra() -> list[str]:
    """The extras that a user may want; none where seqloom runs without having been installed."""
    try:
        found = metadata.metadata("seqloom").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []
    return [name for name in found if name not in FOR_DEVELOPERS]


def start_extras() -> dict[str, subprocess.Popen[bytes]]:
    """Imports of the extras that are installed, a process each, for some take seconds."""
    try:
        whole = [name for name in every_extra() if not lacking(name)]
    except ImportError:  # even packaging is not there
        return {}
    started = {}
    for name in whole:
        modules = ", ".join(one.name.replace("-", "_") for one in requirements(name))
        command = [sys.executable, "-c", f"import {modules}"]
        started[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    return started


def imported(extras: dict[str, subprocess.Popen[bytes]], until: float) -> Iterator[Finding]:
    """What became of the imports, and which extras are not there."""
    for name in every_extra():
        install, title = pip(f"seqloom[{name}]"), f"extra {name}"
        if name not in extras:
            yield Finding(title, OPTIONAL, f"{together(lacking(name))}; nothing else needs it", install)
            continue
        versions = ", ".join(f"{one.name} {metadata.version(one.name)}" for one in requirements(name))
        try:
            _, error = extras[name].communicate(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            yield Finding(title, OK, f"{versions} (there, but not imported within {DEADLINE:.0f} s)")
            continue
        if extras[name].returncode:
            said = error.decode(errors="replace").strip().splitlines()[-1:] or ["no word of why"]
            mend = pip("--force-reinstall", *(one.name for one in requirements(name)))
            yield Finding(title, TO_MEND, f"{versions} cannot be imported: {said[0][:200]}", mend)
        else:
            yield Finding(title, OK, versions)
