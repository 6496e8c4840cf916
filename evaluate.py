"""Score a sequence-to-sequence model, seqloom's or another's, with `evaluate` metrics: ``seqloom evaluate``.

    python evaluate.py runs/mine --split test --num_beams 5 --output_dir runs/mine-beam5
    python evaluate.py Helsinki-NLP/opus-mt-en-de --dataset bentrevett/multi30k --source en --target de

This file has the name of the `evaluate` library. Whoever imports `evaluate` means the library: it then steps aside.
"""

import sys

if __name__ == "evaluate":
    import importlib.machinery
    import importlib.util
    from pathlib import Path

    here = Path(__file__).resolve().parent
    others = [path for path in sys.path if Path(path or ".").resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("evaluate", others)
    if spec is None:
        raise ModuleNotFoundError("No module named 'evaluate': pip install evaluate", name="evaluate")
    sys.modules["evaluate"] = library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
elif __name__ == "__main__":
    IS_SEQLOOM = True  # the package then loads what the command needs, and no more

    from seqloom.commands.score import main

    sys.exit(main())
