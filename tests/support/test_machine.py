"""What is found out about the machine."""

import torch

from seqloom.support.machine import default_device


def test_a_gpu_that_is_not_there(monkeypatch):
    """A torch that is built for GPUs names one on a machine without."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert default_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert default_device() == torch.device("cuda")
