"""The compiled sampling engine, which is optional and which setup.cfg cannot declare."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("charrnn/engines/cpu/kernel")


class PlainLibrary(build_ext):
    """Builder of a library for ctypes, so that one build serves every version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return a file name without the tag of a Python version."""
        return str(Path(*fullname.split("."))) + ".library"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Return no symbols: there is no PyInit."""
        return []


setup(
    ext_modules=[
        Extension(
            "charrnn.engines.cpu.kernel",
            [str(SOURCES / "kernel.c")],
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            extra_compile_args=[
                "-O3",
                "-std=gnu11",
                "-pthread",
                "-fvisibility=hidden",
                "-ffp-contract=off",
                "-Wno-psabi",
            ],
            extra_link_args=["-pthread", "-lm"],
            optional=True,  # without a compiler the installation succeeds, and another engine samples
        )
    ],
    cmdclass={"build_ext": PlainLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
