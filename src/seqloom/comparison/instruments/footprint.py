"""Memory and energy of a model at work, measured in a process of its own, which has held nothing before.

Memory on a CPU is what the resident set grows by from before the model is made to its highest while it works (the
kernel's own mark); on an accelerator it is the highest sum of torch's tensors. Energy is what the machine's counters
tell, as in Strubell et al. 2019 (arXiv:1906.02243): RAPL on Intel's and AMD's processors, NVIDIA's power sensor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedConfig

from seqloom.comparison.instruments.flops import generate, typical_batch
from seqloom.decoding.loading import Seq2SeqLM
from seqloom.modeling import RnnSeq2SeqConfig, TransformerSeq2SeqConfig
from seqloom.settings.schema import TrainingSettings
from seqloom.support.machine import default_device, keep_freed_memory, peak_memory, synchronise
from seqloom.training.initialisation import fresh_model

POWERCAP = Path("/sys/class/powercap")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a process does with a model of random weights."""

    folder: str
    """Of the model, whose config counts."""
    source_length: int
    target_length: int
    rows: int
    """Pairs of an update."""
    decoded_rows: int
    """Sentences that are decoded together."""
    training: dict[str, Any]
    """Fields of `TrainingSettings`."""
    num_threads: int = 1
    energy_seconds: float = 0.0
    """How long updates are repeated while the energy is counted; 0: not at all."""
    powercap: str = str(POWERCAP)


def watch(work: Work) -> dict[str, Any]:
    """Does the work in a fresh process.

    Returns:
        ``generation_memory_mib`` and ``training_memory_mib``, None where it did not fit or the system does not tell;
        ``energy``: None, or ``joules`` by ``cpu`` and ``gpu``, target ``tokens`` and ``seconds``; and ``error``,
        None or in words.
    """
    # Told the number of threads from the start, torch's libraries make no pool that is too large.
    environment = {**os.environ, "OMP_NUM_THREADS": str(work.num_threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "seqloom.comparison.instruments.footprint", json.dumps(dataclasses.asdict(work))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = {"generation_memory_mib": None, "training_memory_mib": None, "energy": None, "error": None}
    for line in done.stdout.splitlines():  # what was measured before an error stays
        found |= json.loads(line)
    if done.returncode:
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        found["error"] = words[-1] if words else f"its process ended with status {done.returncode}."
    return found


def work_here(work: Work) -> Iterator[dict[str, Any]]:
    """What `watch` returns, piece by piece, measured in this process."""
    device = default_device()
    torch.set_num_threads(work.num_threads)
    training = TrainingSettings(**work.training)
    config = AutoConfig.from_pretrained(work.folder, trust_remote_code=False)
    warm_up(work, config, training, device)
    before = held_memory(device)
    for kind, times in (("generation", 1), ("training", 3)):  # an optimizer's state is there from the second update on
        if kind == "training":
            keep_freed_memory()  # as a training does
        model = fresh_model(config, training).to(device)
        forget_peak(device)  # making a model takes more than having it
        step = make_step(kind, work, model, training)
        for _ in range(times):
            step()
        synchronise(device)
        grown = peak_memory(device) - before
        yield {f"{kind}_memory_mib": max(grown, 0.0) if math.isfinite(grown) else None}
        if kind == "generation":
            del model, step
            gc.collect()
    if work.energy_seconds:
        energy = count_energy(step, work.energy_seconds, device, Path(work.powercap))
        if energy is not None:
            energy["tokens"] = energy.pop("steps") * work.rows * work.target_length
        yield {"energy": energy}


def make_step(kind: str, work: Work, model: Seq2SeqLM, training: TrainingSettings) -> Callable[[], object]:
    """An update of the settings' optimizer and precision, or the decoding of a batch."""
    if kind == "generation":
        model.eval()
        batch = typical_batch(model, work.decoded_rows, work.source_length, work.target_length)
        return lambda: generate(model, batch)
    model.train()
    pieces = min(work.rows, training.gradient_accumulation_steps)
    batch = typical_batch(model, math.ceil(work.rows / pieces), work.source_length, work.target_length)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[training.optim](learning, lr=1e-6, fused=True)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.mixed_precision or "no")
    mixed = torch.autocast(model.device.type, precision) if precision else contextlib.nullcontext()

    def update() -> None:
        for _ in range(pieces):
            with mixed:
                loss = model(**batch, use_cache=False).loss / pieces
            loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, training.max_grad_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()

    return update


def warm_up(work: Work, config: PreTrainedConfig, training: TrainingSettings, device: torch.device) -> None:
    """Brings into memory what is no model's own: libraries that load when first used, thread pools, workspaces."""
    with torch.device("meta"):
        AutoModelForSeq2SeqLM.from_config(config)  # loads its code, and holds no weights
    tokens: dict[str, Any] = {
        "vocab_size": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    for small in (
        RnnSeq2SeqConfig(hidden_size=8, **tokens),
        TransformerSeq2SeqConfig(d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
                                 decoder_attention_heads=1, **tokens),
    ):  # fmt: skip
        sizes = dataclasses.replace(work, source_length=2, target_length=2, rows=2, decoded_rows=2)
        for kind in ("generation", "training"):
            model = fresh_model(small, TrainingSettings()).to(device)
            make_step(kind, sizes, model, TrainingSettings(optim=training.optim))()
    gc.collect()
    synchronise(device)


def held_memory(device: torch.device) -> float:
    """MiB held now, by the measure of `peak_memory`."""
    counter = getattr(torch.get_device_module(device), "memory_allocated", None)
    if counter is not None:
        return counter(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmRSS:\s+(\d+)", status.read_text())[0]) / 2**10  # KiB
    return peak_memory(device)  # elsewhere: what was held at most so far


def forget_peak(device: torch.device) -> None:
    """From now on `peak_memory` counts anew; where the system does not allow it, it goes on."""
    counter = getattr(torch.get_device_module(device), "reset_peak_memory_stats", None)
    if counter is not None:
        counter(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM


def rapl_zones(powercap: Path) -> list[Path]:
    """Folders of the counters that add up to processors and memory; none where they cannot be read.

    A package counts its cores too, and intel-rapl-mmio counts the same package once more.
    """
    zones = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's too have this name
        with contextlib.suppress(OSError, ValueError):  # since 2020 most systems let only the administrator read
            name = (zone / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                read_counters([zone])
                zones.append(zone)
    return zones


def read_counters(zones: list[Path]) -> list[int]:
    """Microjoules, counted from any moment on."""
    return [int((zone / "energy_uj").read_text()) for zone in zones]


def joules(zones: list[Path], before: list[int], after: list[int]) -> float:
    """Energy between two readings; a counter that passed its end began again at 0."""
    total = 0
    for zone, first, last in zip(zones, before, after, strict=True):
        total += last - first if last >= first else last - first + int((zone / "max_energy_range_uj").read_text())
    return total / 1e6


def has_meter(device: torch.device, powercap: Path = POWERCAP) -> bool:
    """Whether this machine tells what it takes."""
    return bool(rapl_zones(powercap)) or (device.type == "cuda" and shutil.which("nvidia-smi") is not None)


def count_energy(
    step: Callable[[], object], seconds: float, device: torch.device, powercap: Path = POWERCAP
) -> dict[str, Any] | None:
    """``joules`` by ``cpu`` and ``gpu`` of ``steps`` that are repeated for some ``seconds``; None without a counter."""
    if not has_meter(device, powercap):
        return None
    zones = rapl_zones(powercap)
    sampler = start_sampler(device)
    number, started, before = 0, time.perf_counter(), read_counters(zones)
    while (taken := time.perf_counter() - started) < seconds or not number:
        step()
        synchronise(device)
        number += 1
    after = read_counters(zones)
    watts = mean_watts(stop_sampler(sampler)) if sampler is not None else None
    found = {
        "cpu": joules(zones, before, after) if zones else None,
        "gpu": None if watts is None else watts * taken,
    }
    if all(value is None for value in found.values()):
        return None
    return {"joules": found, "steps": number, "seconds": taken}


def start_sampler(device: torch.device) -> subprocess.Popen | None:
    """nvidia-smi, printing the device's watts ten times a second."""
    program = shutil.which("nvidia-smi")
    if device.type != "cuda" or program is None:
        return None
    uuid = torch.cuda.get_device_properties(device).uuid
    options = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=100", f"--id=GPU-{uuid}"]
    return subprocess.Popen([program, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def stop_sampler(sampler: subprocess.Popen) -> str:
    """Ends it; all that it printed."""
    sampler.terminate()
    return sampler.communicate()[0]


def mean_watts(printed: str) -> float | None:
    """Mean of the lines; None where none is a number, as of a card without a sensor."""
    values = [float(line) for line in printed.splitlines() if re.fullmatch(r"\s*\d+(\.\d+)?\s*", line)]
    return sum(values) / len(values) if values else None


if __name__ == "__main__":
    for piece in work_here(Work(**json.loads(sys.argv[1]))):
        print(json.dumps(piece), flush=True)
