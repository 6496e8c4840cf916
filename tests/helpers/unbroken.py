"""Training commands in processes of their own, that die when told to; and whether a run is as an unbroken one."""

import json
from pathlib import Path

import pytest

from helpers.runs import (
    read_log,
    same,
    weights,
)
from seqloom.training import checkpoints

# One process that has imported everything and forks: a start takes five seconds else. It reads orders, one JSON a line
# (the words of train.py, where to die), and answers each with the child's exit status (below zero: the signal).
SERVER = """
import json, os, pathlib, resource, shutil, signal, sys, time
import accelerate.utils.other, safetensors.torch, torch, transformers.modeling_utils
from seqloom.commands.train import main
from seqloom.training import checkpoints

torch.set_num_threads(1)


def die_at(number):
    '''Kills this process in the middle of its n-th renaming, writing, deleting or syncing.'''
    calls = []

    def patch(module, name, half):
        if not hasattr(module, name):
            return
        original = getattr(module, name)

        def patched(*args, **kwargs):
            calls.append(name)
            if len(calls) == number:
                half(original, *args, **kwargs)
                print(f"dies in {name}({', '.join(str(arg)[:90] for arg in args[-1:])})", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(module, name, patched)

    def cut(original, *args, **kwargs):
        original(*args, **kwargs)
        for path in args:
            if isinstance(path, (str, pathlib.Path)) and os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)

    def before_or_after(original, *args, **kwargs):
        if number % 2:
            original(*args, **kwargs)

    def one_file(original, path, *args, **kwargs):
        for file in sorted(pathlib.Path(path).rglob('*'), reverse=True):
            if file.is_file():
                file.unlink()
                break

    patch(os, 'replace', before_or_after)
    patch(os, 'fsync', before_or_after)
    patch(shutil, 'rmtree', one_file)
    patch(torch, 'save', cut)
    patch(accelerate.utils.other, 'safe_save_file', cut)
    patch(transformers.modeling_utils, 'safe_save_file', cut)
    patch(checkpoints, 'save_file', cut)
    patch(pathlib.Path, 'write_text', cut)


def smallest_disk(limit):
    '''From the second checkpoint on no file can be longer than so many bytes.'''
    original, calls = checkpoints.save_checkpoint, []

    def save_checkpoint(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return original(*args, **kwargs)

    checkpoints.save_checkpoint = save_checkpoint


for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        output = os.open(order['output'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if order.get('event'):
            die_at(order['event'])
        if order.get('limit'):
            smallest_disk(order['limit'])
        try:
            status = main(order['words'])
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 70
        sys.stdout.flush()
        os._exit(status)
    if order.get('after') is not None:
        time.sleep(order['after'])
        os.kill(child, signal.SIGKILL)
    if order.get('signal'):
        name, path, lines = order['signal']
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if os.path.exists(path) and len(open(path).readlines()) >= lines:
                os.kill(child, getattr(signal, name))
                break
            time.sleep(0.005)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


# One launch of several commands, one after the other: a start takes five seconds a process.
RUNS = """
import json, sys
from accelerate import Accelerator
from seqloom.commands.train import main

end_training, Accelerator.end_training = Accelerator.end_training, lambda accelerator: None
for command in json.loads(sys.argv[1]):
    if status := main(command):
        sys.exit(status)
"""


def without_clock(folder: Path) -> list[dict]:
    """The log's lines, without what depends on the machine's hour and memory."""
    return [{name: value for name, value in line.items() if name != "memory_mib"} for line in read_log(folder)]


def assert_same_run(ours: Path, theirs: Path) -> int:
    """Weights, log and record of two runs are equal bit for bit; returns the number of losses compared."""
    assert same(weights(ours / "run"), weights(theirs / "run"))
    last = [checkpoints.last_checkpoint(folder / "run", say=pytest.fail) for folder in (ours, theirs)]
    assert last[0].name == last[1].name
    assert same(*(weights(checkpoint) for checkpoint in last))
    assert without_clock(ours) == without_clock(theirs)
    records = [json.loads((folder / "run" / "record.json").read_text()) for folder in (ours, theirs)]
    for record in records:
        record["progress"].pop("seconds")
        for clock in ("seconds", "sentences_per_second", "folder"):
            record["evaluation"].pop(clock, None)
    for part in ("progress", "evaluation", "model"):
        assert records[0][part] == records[1][part]
    names = [{path.name for path in (folder / "run" / "checkpoints").iterdir()} for folder in (ours, theirs)]
    assert names[0] == names[1]
    assert not [path for path in (ours / "run").rglob("*") if path.name.startswith(("saving", "old-", "deleting-"))]
    return sum("loss" in line for line in without_clock(ours))


def last(folder: Path) -> Path:
    return checkpoints.last_checkpoint(folder / "run", pytest.fail)
