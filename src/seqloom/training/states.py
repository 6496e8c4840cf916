"""What of a checkpoint is no weight: how it is kept, and that nothing is run by reading it.

Accelerate 1.15 reads weights from safetensors, and optimizer, scaler and random states with ``weights_only=True``. Two
things it would unpickle, whatever they hold: objects that are registered with it, so those of a run are kept here
instead; and of sharded weights and optimizers (FSDP2) the ``.metadata`` and all values that are no tensors, which torch
reads. These are looked through beforehand, by a reader that knows the few classes that they are made of.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from enum import EnumMeta
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import load

TORCH_FILES = (".bin", ".pt", ".pth", ".pkl", ".pickle")
METADATA = ".metadata"
"""How the names of files end that tell where the parts of sharded tensors lie."""
STORED = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
}  # fmt: skip
"""What such metadata is made of, besides torch's dtypes and plain values."""
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError,
    ImportError, OSError,
)  # fmt: skip
"""What unpickling raises for what it will not or cannot read."""


class Stateful(Protocol):
    """An object that a checkpoint keeps: its state is tensors and plain values."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def write_states(folder: Path, kept: Mapping[str, Stateful]) -> None:
    """Writes each object's state into a file of its name."""
    for name, thing in kept.items():
        torch.save(thing.state_dict(), folder / f"{name}.pt")


def read_states(folder: Path, kept: Mapping[str, Stateful]) -> None:
    """Gives the objects the states that `write_states` wrote."""
    for name, thing in kept.items():
        thing.load_state_dict(torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True))


def check_states(folder: Path) -> None:
    """Makes sure, before anything of a checkpoint is read, that reading it makes tensors and plain values alone.

    Raises:
        ValueError: A file asks for more, is of an earlier version, or cannot be read.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if re.fullmatch(r"custom_checkpoint_\d+\.pkl", path.name):
            raise ValueError(
                f"{path} is a pickle, which an earlier development version of seqloom wrote and this one does not "
                "read, since reading it could run anything: go on with that version, or train anew with --overwrite."
            )
        try:
            if path.name.endswith(METADATA):
                _check_metadata(path)
            elif path.suffix in TORCH_FILES:
                load(path, map_location="meta", mmap=True)  # with weights_only; the tensors themselves are not read
        except UNREADABLE as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"{path} is not what seqloom writes, and reading it could run code, so it is not read "
                f"({type(error).__name__}: {reason[0][:200]}): resume from the folder as the training left it."
            ) from None


def _check_metadata(path: Path) -> None:
    """The same for a sharded part of a checkpoint, by its metadata."""
    with path.open("rb") as file:
        metadata = _MetadataReader(file).load()
    entries = metadata.state_dict_metadata.items()
    values = {name for name, entry in entries if type(entry).__name__ == "BytesStorageMetadata"}
    for index, place in metadata.storage_data.items():
        if index.fqn in values:
            if place.transform_descriptors:
                raise pickle.UnpicklingError(f"{index.fqn} is stored in another form than seqloom's")
            with (path.parent / place.relative_path).open("rb") as part:
                part.seek(place.offset)
                torch.load(io.BytesIO(part.read(place.length)), map_location="cpu", weights_only=True)


def _member(kind: object, name: str) -> object:
    """What ``getattr`` may be asked for: some versions of Python (3.11.2) pickle an enumeration's members by it."""
    if isinstance(kind, EnumMeta) and name in kind.__members__:
        return kind.__members__[name]
    raise pickle.UnpicklingError(f"it asks for an attribute, {name!r}")


class _MetadataReader(pickle.Unpickler):
    """Knows the classes of such metadata, and no other thing."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in STORED.get(module, ()):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
