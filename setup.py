"""The one thing that setup.cfg cannot declare: the compiled sampling engine, which may be missing."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = "charrnn/engines/cpu"


class PlainLibrary(build_ext):
    """Builds a library that ctypes loads, so that one build serves every version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """No module of Python's, by its name, either."""
        return str(Path(*fullname.split("."))) + ".library"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """There is no PyInit."""
        return []


setup(
    ext_modules=[
        Extension(
            "charrnn.engines.cpu.kernel",
            [f"{SOURCES}/kernel.c"],
            depends=[f"{SOURCES}/kernel_body.h"],
            extra_compile_args=[
                "-O3",
                "-std=gnu11",
                "-pthread",
                "-fvisibility=hidden",
                "-ffp-contract=off",
                "-Wno-psabi",
            ],
            extra_link_args=["-pthread", "-lm"],
            optional=True,  # without a compiler the installation goes on, and sampling takes a slower engine
        )
    ],
    cmdclass={"build_ext": PlainLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
