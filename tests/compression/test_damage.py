"""Files of compress that are damaged, foreign or half written: one line, and nothing written."""

import io
import json
import os
import signal
import subprocess
import sys
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srvae_pyro import compress, decompress
from srvae_pyro.compress import CompressArguments
from srvae_pyro.compression import container
from srvae_pyro.compression.container import CHECK, MAGIC, Container, Entry, Header, packed
from srvae_pyro.decompress import DecompressArguments
from tests.builders import make_images, save_run, write_images

IMAGES = tuple(Entry(f"{i:03d}", 16, 16 + i) for i in range(4))
HEADER = Header("net", "digest", "fp64", 2, (3, 3), {"torch": "2"}, IMAGES)
CHAINS = [np.arange(20, dtype=np.uint32), np.arange(50, dtype=np.uint32)]
CONTENT = packed(Container(HEADER, bytes(range(20)), CHAINS))


def refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it(s)? ") as told:
        container.read_from(io.BytesIO(content))
    assert "\n" not in str(told.value)


def test_what_is_whole_is_read() -> None:
    content = container.read_from(io.BytesIO(CONTENT))
    assert content.header == HEADER
    assert all(map(np.array_equal, content.chains, CHAINS))
    assert content.bytes_read == content.size == len(CONTENT)
    first = container.read_from(io.BytesIO(CONTENT), preview=True)
    assert len(first.chains) == 1
    again = container.read_from(io.BytesIO(CONTENT[: first.bytes_read]), preview=True)
    assert np.array_equal(again.chains[0], CHAINS[0])


@settings(deadline=None)
@given(st.sets(st.integers(0, 8 * len(CONTENT) - 1), min_size=1, max_size=5))
def test_no_bit_can_be_another(bits: set[int]) -> None:
    changed = bytearray(CONTENT)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    refused(bytes(changed))


@settings(deadline=None)
@given(st.integers(0, len(CONTENT) - 1), st.binary(max_size=20))
def test_no_end_can_be_another(length: int, more: bytes) -> None:
    if CONTENT[length:] != more:
        refused(CONTENT[:length] + more)
    if more:
        refused(CONTENT + more)


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_foreign_files_are_refused(content: bytes, with_magic: bool) -> None:
    refused(MAGIC * with_magic + content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
FIELDS = [*json.loads(zlib.decompress(HEADER.to_bytes()))]


@settings(deadline=None)
@given(st.sampled_from(FIELDS), JSON)
def test_any_header_is_one_that_makes_sense_or_refused(field: str, value: Any) -> None:
    """Of a foe, whose checksums fit."""
    values = json.loads(zlib.decompress(HEADER.to_bytes()))
    part = zlib.compress(json.dumps({**values, field: value}).encode())
    length = int.from_bytes(CONTENT[len(MAGIC) : len(MAGIC) + 8], "little")
    rest = CONTENT[len(MAGIC) + 8 + length + CHECK :]
    content = MAGIC + len(part).to_bytes(8, "little") + part + container._hash(part, CHECK) + rest
    try:
        header = container.read_from(io.BytesIO(content)).header
    except ValueError as error:
        told = str(error)
    else:
        header.check()
        told = "it" if header.images == IMAGES else "other images"
    assert told.startswith("it")


# Waits when all but the last step is done: the file written but not in its place, or one image
# of two.
CHILD = """
import os, sys, time
from pathlib import Path
import torch
from srvae_pyro import compress, decompress
from srvae_pyro.compression import command as session
from srvae_pyro.system import files

def wait(*_):
    print("now", os.getpid(), flush=True)
    time.sleep(600)

class Slow:
    def __getattr__(self, name):
        return wait if name == "replace" else getattr(real, name)

# Imports take seconds, so that they are done once: each line is of a process of its own.
torch.set_num_threads(1)
compress.main(compress.CompressArguments("runs/net", (Path("in"),), Path(sys.argv[1])))
for line in sys.stdin:
    command, out = line.split()
    if not (pid := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    sys.exit()
if command == "compress":
    real, files.os = files.os, Slow()
    arguments = compress.CompressArguments("runs/net", (Path("in"),), Path(out))
    sys.exit(compress.main(arguments))
save, done = session.save_photograph, []
session.save_photograph = lambda *a: wait() if done else done.append(save(*a))
sys.exit(decompress.main(decompress.DecompressArguments(Path("packed"), Path(out))))
"""


@pytest.fixture
def place(here: Path) -> Path:
    """A folder with a VAE, two images, and the file that they are compressed into."""
    save_run(here / "runs" / "net", model="vae", p_u="standard")
    write_images(here / "in", make_images(2))
    assert compress.main(CompressArguments("net", (Path("in"),), Path("packed"))) == 0
    return here


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_kill_leaves_nothing_half_done(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path_factory.mktemp("warm") / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as children:
        for command, number in product(
            ("compress", "decompress"), (signal.SIGTERM, signal.SIGKILL)
        ):
            out = place / f"out-{command}"
            before = set(place.iterdir())
            print(command, out.name, file=children.stdin, flush=True)
            while not (line := children.stdout.readline()).startswith("now"):
                assert line
            os.kill(int(line.split()[1]), number)
            code = int(children.stdout.readline())
            assert code == (143 if number == signal.SIGTERM else -number), command
            assert not out.exists()
            left = set(place.iterdir()) - before
            if number == signal.SIGTERM:
                assert not left
            assert all(path.name.startswith(".") and "partial" in path.name for path in left)
        children.stdin.close()
    # What is left is taken away by the next.
    arguments = CompressArguments("net", (Path("in"),), place / "out-compress")
    assert compress.main(arguments) == 0
    assert (place / "out-compress").read_bytes() == (place / "packed").read_bytes()
    assert decompress.main(DecompressArguments(Path("packed"), place / "out-decompress")) == 0
    assert {path.name for path in (place / "out-decompress").iterdir()} == {"00.png", "01.png"}
    assert not [path for path in place.iterdir() if path.name.startswith(".")]
