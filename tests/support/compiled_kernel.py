"""Skipping of tests that need the compiled kernel."""

import pytest

from charrnn.engines.cpu import library as cpu_library


def kernel_variants():
    """Return the names of the kernel's variants for this processor, or skip the test or the module without a kernel."""
    try:
        return [*cpu_library.variants()]
    except cpu_library.UnavailableError as error:
        pytest.skip(str(error), allow_module_level=True)
