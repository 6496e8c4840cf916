"""What a stranger does first, with the python that runs this file and the wheel that is installed there.

It trains, scores, translates and loads in the folder it is started in, which has no checkout above or beside it.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

FOLDER = "runs/smoke"
LOAD = f"""
import sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
options = {{"trust_remote_code": True}} if "trust" in sys.argv else {{}}
model = AutoModelForSeq2SeqLM.from_pretrained("{FOLDER}", **options)
tokenizer = AutoTokenizer.from_pretrained("{FOLDER}", **options)
model.generate(**tokenizer("jump twice", return_tensors="pt"), max_new_tokens=5)
print(type(model).__module__)
"""


def run(*words: str, text: str = "", fails: bool = False) -> str:
    """What a command prints; with ``fails``, what it says when it fails, as it must."""
    print("+", *(word if "\n" not in word else "..." for word in words), flush=True)
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if (done.returncode != 0) != fails:
        sys.exit(f"{done.stdout}\n{done.stderr}\nstatus {done.returncode}, {'another' if fails else '0'} was expected")
    return done.stderr if fails else done.stdout


def expect(truth: bool, what: str) -> None:
    if not truth:
        sys.exit(f"not so: {what}")
    print(f"  {what}", flush=True)


python = (sys.executable, "-c")
scripts = Path(sys.executable).parent

where = run(*python, "import seqloom; print(seqloom.__file__)").strip()
expect(Path(where).is_relative_to(sysconfig.get_path("purelib")), f"seqloom is the installed one: {where}")

small = ("--hidden_size", "16", "--max_steps", "3", "--eval_samples", "8", "--max_new_tokens", "20")
module = (sys.executable, "-m", "seqloom")
run(*module, "train", "scan-rnn", *small, "--evaluation.split", "null", "--output_dir", FOLDER)
expect(Path(FOLDER, "model.safetensors").is_file(), "three updates, and a model is there")

commands = "jump twice\nwalk left\n"
Path("commands.txt").write_text(commands, encoding="utf-8")
Path("actions.txt").write_text("I_JUMP I_JUMP\nI_TURN_LEFT I_WALK\n", encoding="utf-8")
pairs = ("--test_files", "commands.txt", "actions.txt")
run(str(scripts / "seqloom"), "evaluate", FOLDER, *pairs, "--split", "test", "--output_dir", "scores")
expect(Path("scores", "scores.json").is_file(), "two pairs are scored")

lines = run(str(scripts / "seqloom"), "translate", FOLDER, text=commands).splitlines()
expect(len(lines) == 2, "two lines in, two lines out")

origin = run(*python, "import seqloom\n" + LOAD).strip()
expect(origin.startswith("seqloom.modeling."), f"with seqloom imported, the model is seqloom's own: {origin}")
origin = run(*python, LOAD, "trust").strip()
expect(origin.startswith("transformers_modules."), f"with trust_remote_code, it is the folder's code: {origin}")
error = run(*python, LOAD, fails=True)
expect("trust_remote_code=True" in error, f"without either, transformers refuses: {error.splitlines()[-1][:200]}")
