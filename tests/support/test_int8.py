"""Products in int8 are near the exact ones on whatever processor: none of their sums overflows."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from seqloom.decoding.packed import PackedLinear
from seqloom.support import int8


def test_the_largest_products_do_not_overflow():
    """All inputs and weights as large as they come, where sums in 16 bits would stay at their largest number."""
    layer = nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    outputs = PackedLinear([layer], torch.int8)(torch.ones(4, 64))
    assert torch.allclose(outputs, torch.full((4, 3), 128.0), rtol=0.02)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_random_products_are_near(scale):
    torch.manual_seed(3)
    layer, inputs = nn.Linear(256, 64), torch.randn(100, 256) * scale
    with torch.no_grad():
        exact = layer(inputs)
        difference = (PackedLinear([layer], torch.int8)(inputs) - exact).abs().max()
    assert difference < 0.06 * exact.abs().max()


@pytest.mark.skipif(torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"), reason="of x86 processors")
@pytest.mark.parametrize("given", [None, "0"])
def test_ctranslate2_is_told_where_it_matters_unless_someone_has(monkeypatch, given):
    monkeypatch.delenv("CT2_USE_MKL", raising=False)
    if given is not None:
        monkeypatch.setenv("CT2_USE_MKL", given)
    for overflows in (False, True):
        monkeypatch.setattr(int8, "saturates", lambda overflows=overflows: overflows)
        int8.let_ctranslate2_be_exact()
        assert os.environ.get("CT2_USE_MKL") == (given if given is not None else "1" if overflows else None)


@pytest.mark.slow
def test_before_it_is_loaded():
    """Whatever of seqloom's loads CTranslate2 has told it before."""
    code = (
        "import sys; import seqloom.export.to_ctranslate2, seqloom.decoding.run_ctranslate2; "
        "assert 'ctranslate2' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
