"""Loads a handler as an Inference Endpoint does; run as a process of its own, where there is no seqloom.

That one reads ``{"folder", "requests"}`` and prints the answers as JSON.
"""

import importlib.util
import json
import sys
from pathlib import Path


def loaded(folder: str):
    """As huggingface-inference-toolkit does (``check_and_register_custom_pipeline_from_directory``)."""
    spec = importlib.util.spec_from_file_location("handler", Path(folder) / "handler.py")
    sys.path.insert(0, folder)
    handler = importlib.util.module_from_spec(spec)
    sys.modules["handler"] = handler
    spec.loader.exec_module(handler)
    return handler.EndpointHandler(folder)


def main() -> None:
    from helpers.hub_loader import WithoutSeqloom

    sys.meta_path.insert(0, WithoutSeqloom())
    asked = json.load(sys.stdin)
    handler = loaded(asked["folder"])
    assert "seqloom" not in sys.modules
    print("\n" + json.dumps([handler(request) for request in asked["requests"]]))


if __name__ == "__main__":
    main()
