"""The compiled kernel, without which the tests of the compiled engine are skipped."""

import os
import shutil
import sys

import pytest

from charrnn.engines.cpu.library import library, variants

COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.mark.skipif(not COMPILER or sys.platform == "win32", reason="there is no C compiler here")
def test_the_kernel_was_built_where_there_is_a_compiler():
    assert library()
    assert len(variants()) >= 1
