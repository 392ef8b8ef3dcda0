"""Help for tests of inputs: files to write, and flags of a training that ends at once."""

from pathlib import Path

TINY = "--rnn-size 4 --layers 1 --wordvec-size 2 --batch-size 1 --seq-length 4 --threads 1 --device cpu".split()
SMALL = [*TINY, "--max-iterations", "1"]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
M4A = b"\0\0\0\x20ftypM4A " + bytes(100)


def files(*names, content="abc"):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
