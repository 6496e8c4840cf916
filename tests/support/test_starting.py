"""Imports without garbage collection: it rests within, and is as it was behind, whatever happens."""

import gc

import pytest

from seqloom.support.starting import garbage_left


@pytest.mark.parametrize("is_on", [True, False])
def test_as_it_was(is_on):
    was_on = gc.isenabled()
    (gc.enable if is_on else gc.disable)()
    try:
        with pytest.raises(ImportError), garbage_left():
            raise ImportError(gc.isenabled())
        with garbage_left():
            assert not gc.isenabled()
        assert gc.isenabled() is is_on
    finally:
        (gc.enable if was_on else gc.disable)()
