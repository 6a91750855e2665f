"""What all commands do alike: paths, exhausted memory, terminals that lack signs."""

import errno
import io
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from srvae_pyro import compress, decompress, figures, generate, train, upscale
from srvae_pyro.__main__ import COMMANDS, main
from srvae_pyro.checked import hints_of, type_of
from srvae_pyro.compression.arguments import CompressArguments, DecompressArguments
from srvae_pyro.compression.container import Container, Entry, Header, write_parts
from srvae_pyro.config import DataConfig, RunConfig
from srvae_pyro.drawing.arguments import FiguresArguments, GenerateArguments
from srvae_pyro.errors import UserError, out_of_memory
from srvae_pyro.evaluate import EvaluateArguments
from srvae_pyro.system.cli import parse, run_command
from srvae_pyro.system.files import write_json
from srvae_pyro.training.arguments import TrainArguments
from srvae_pyro.upscaling.arguments import UpscaleArguments
from tests.builders import tiny

SHORT = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


def run(monkeypatch: pytest.MonkeyPatch, main) -> int | str | None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["evaluate", "RUN"])
    with pytest.raises(SystemExit) as stop:
        run_command(EvaluateArguments, main, "evaluate", "give a smaller --batch-size")
    return stop.value.code


@pytest.mark.parametrize("returned", [None, 0, 1, 130])
def test_a_command_exits_with_what_its_main_returns(
    returned: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, lambda arguments: returned) == (returned or 0)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        *((error, 2, "out of memory: give a smaller --batch-size") for error in SHORT),
        (
            UserError("`memory_gb` is too little: give `image_size=64`, `resume=True` or `a.b=3`"),
            2,
            "--memory-gb is too little: give --image-size 64, --resume or a.b=3",
        ),
        (PermissionError(errno.EACCES, "Denied", "/some/place"), 2, "/some/place: Denied"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_of_users_and_systems_are_one_line(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: EvaluateArguments) -> int:
        raise error

    assert run(monkeypatch, fail) == code
    assert capsys.readouterr().err == f"evaluate: {line}\n"


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ZeroDivisionError("0")])
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: EvaluateArguments) -> int:
        raise error

    assert not out_of_memory(error)
    monkeypatch.setattr(sys, "argv", ["evaluate", "RUN"])
    with pytest.raises(type(error), match=str(error)):
        run_command(EvaluateArguments, fail, "evaluate")


def test_a_read_only_place_is_refused_with_the_flag_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", f"{dir}/probe")

    monkeypatch.chdir(tmp_path)
    config = RunConfig("", tiny(), DataConfig(data="photos"))
    write_json(tmp_path / "runs" / "net" / "config.json", config.to_dict())
    entry = Entry("a", 8, 8)
    header = Header("net", "", "fp64", 1, (1,), {}, (entry,))
    write_parts(tmp_path / "packed", Container(header, bytes(8), [np.ones(1, np.uint32)]))
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    image, out = Path("a.png"), "runs/net/figures"
    for call, place, flag in (
        (lambda: generate.main(GenerateArguments("net")), f"{out}/generated", "--out DIR"),
        (lambda: figures.main(FiguresArguments("net")), out, "--out DIR"),
        (lambda: upscale.main(UpscaleArguments("net", (image,))), f"{out}/upscaled", "--out DIR"),
        (lambda: compress.main(CompressArguments("net", (image,), Path("c"))), "c", "--out FILE"),
        (lambda: decompress.main(DecompressArguments(Path("packed"), Path("d"))), "d", "--out DIR"),
        (lambda: train.main(TrainArguments(run="t", device="cpu")), "runs/t", "--run DIR"),
    ):
        told = f"cannot write {place} (Read-only file system): give {flag}"
        with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
            call()


def test_a_python_without_docstrings_is_refused() -> None:
    line = [sys.executable, "-OO", "-m", "srvae_pyro.generate", "RUN"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    told = "generate: Pyro needs docstrings, which python -OO removes: use -O\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


def names_in(kind: Any) -> set[str]:
    """The fields of a command's arguments, and of the settings in them."""
    hints = hints_of(kind)
    kinds = map(type_of, hints.values())
    nested = (names_in(kind) for kind in kinds if is_dataclass(kind))
    return set(hints).union(*nested)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_flags_that_it_has(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_command = Mock()
    monkeypatch.setattr("srvae_pyro.system.cli.run_command", run_command)
    monkeypatch.delitem(sys.modules, f"srvae_pyro.{command}", raising=False)
    runpy.run_module(f"srvae_pyro.{command}", run_name="__main__")
    kind, _, _, memory = run_command.call_args.args
    flags = [word.strip(",") for word in memory.split() if word.startswith("--")]
    assert flags
    assert {flag[2:].replace("-", "_") for flag in flags} <= names_in(kind)


def test_a_character_that_the_terminal_lacks_becomes_a_question_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def print_line(arguments: EvaluateArguments) -> int:
        print("3.7 ± 0.1")
        return 0

    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run(monkeypatch, print_line) == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == b"3.7 ? 0.1\n"


FIVE_COMMANDS = """
import sys
from srvae_pyro import compress, decompress, evaluate, generate, upscale
from srvae_pyro.system.cli import parse
folder, run, *slow = sys.argv[1:]
def command(module, kind, words):
    module.main(parse(getattr(module, kind), words=words.format(run=run, folder=folder).split()))
    print("imported:", *set(slow) & set(sys.modules))
command(upscale, "UpscaleArguments", "{run} {folder}/a.png --out {folder}/upscaled")
command(generate, "GenerateArguments", "{run} --count 2 --out {folder}/generated")
command(compress, "CompressArguments", "{run} {folder}/a.png --out {folder}/a.srvae")
command(decompress, "DecompressArguments", "{folder}/a.srvae --run {run} --out {folder}/back")
command(evaluate, "EvaluateArguments",
    "{run} --data {folder}/generated --elbo-only --split all --json {folder}/evaluation.json")
"""


def test_commands_import_nothing_slow_that_they_do_not_use(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[2] / "runs" / "pretrained", run)
    slow = "torch._dynamo torch._inductor sympy torchvision tensorboard skimage scipy pandas gradio"
    words = [sys.executable, "-c", FIVE_COMMANDS, str(tmp_path), str(run), *slow.split()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = [line for line in done.stdout.splitlines() if line.startswith("imported:")]
    assert imported == ["imported:"] * 5


@dataclass
class Arguments:
    """Some of each kind."""

    images: tuple[Path, ...] = ()
    out: Path | None = None
    run: str = ""
    count: int = 1


def test_every_path_has_its_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    line = ["command", "--images", "~/a.png", "b~.png", "--out=~/x", "--run=~/runs/r"]
    monkeypatch.setattr(sys, "argv", line)
    given: list[Arguments] = []
    with pytest.raises(SystemExit):
        run_command(Arguments, lambda arguments: given.append(arguments), "command")
    assert given == [
        Arguments(
            (Path("/home/me/a.png"), Path("b~.png")), Path("/home/me/x"), "/home/me/runs/r", 1
        )
    ]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("RUN --importance-samples many", ("--importance-samples", "many")),
        ("RUN --batch-size 2.5", ("--batch-size", "2.5")),
        ("RUN --temperature -1", ("--temperature must be at least 0, not -1",)),
        ("RUN --decode best", ("--decode", "best", "sample", "mode")),
        ("RUN --importance 5", ("--importance", "Did you mean --importance-samples?")),
        ("RUN --seed", ("--seed", "requires an argument")),
        ("--elbo-only", ("name a run, such as pretrained: python -m ", " pretrained --data DIR")),
    ],
)
def test_a_wrong_command_line_is_one_line_that_names_the_flag(
    words: str,
    named: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *words.split()])
    with pytest.raises(SystemExit) as stop:
        run_command(EvaluateArguments, lambda arguments: 0, "evaluate")
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("evaluate: ")
    assert all(text in err for text in named)


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        (GenerateArguments, "", "name a run, such as pretrained: {} pretrained"),
        (
            UpscaleArguments,
            "",
            "name a model first, such as pretrained-photo: {} pretrained-photo ",
        ),
        (UpscaleArguments, "a.jpg", "such as pretrained-photo: {} pretrained-photo a.jpg"),
        (UpscaleArguments, "RUN", "name at least one image after the model: {} pretrained-photo "),
        (CompressArguments, "a.png", "such as pretrained-photo: {} pretrained-photo a.png"),
        (DecompressArguments, "", "requires an argument"),
    ],
)
def test_a_missing_model_is_an_example_of_the_command(kind: Any, words: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said.format("python -m srvae_pyro.command"))):
        parse(kind, "command", words.split())


def test_help_needs_no_library_and_names_every_option() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['train', '--help']\n"
        "try:\n"
        "    runpy.run_module('srvae_pyro.train', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop:\n"
        "    print('exit', stop.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("exit 0 False")
    assert not done.stderr
    for option in ("--preset", "--model", "--data", "--run", "--resume", "--max-minutes"):
        assert option in done.stdout


@pytest.mark.parametrize("kind", [TrainArguments, EvaluateArguments, UpscaleArguments])
def test_help_has_the_common_flags_and_help_all_the_others(
    kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            parse(kind, words=[flag])
        shown[flag] = capsys.readouterr().out
    common, everything = (set(re.findall(r"--[a-z-]+", text)) for text in shown.values())
    assert {f"--{name.replace('_', '-')}" for name in kind.COMMON_FLAGS} <= common
    assert common - everything == {"--help-all"}
    assert "--precision" in everything - common
    assert shown["--help"].count("\n") < 45


def test_a_flag_of_several_values_can_be_given_in_several_places() -> None:
    words = "--set model.stages=3 --preset small --set training.lr=1 training.eps=2 --set=a.b=c"
    arguments = parse(TrainArguments, "train", words.split())
    assert arguments.set == ("model.stages=3", "training.lr=1", "training.eps=2", "a.b=c")
    assert arguments.preset == "small"
    for words in ("R --factor 2 --factor 4 --seed 3", "--factor 2 4 --seed 3 R"):
        evaluate = parse(EvaluateArguments, "evaluate", words.split())
        assert (evaluate.run, evaluate.factor, evaluate.seed) == ("R", (2, 4), 3)


def test_one_program_has_all_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["srvae-pyro"])
    main()
    listed = capsys.readouterr().out
    assert all(f"srvae-pyro {name}" in listed for name in COMMANDS)
    monkeypatch.setattr(sys, "argv", ["srvae-pyro", "completion", "bash"])
    main()
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert {"--estimate-weight", "decompress"} <= set(script.replace("'", " ").split())
    for words, code, said in (
        (["upscal"], 2, "did you mean upscale?"),
        (["completion", "tcsh"], 2, "powershell"),
        (["export", "--help"], 0, "Usage"),
        (["decompress", "--help"], 0, "Usage"),
    ):
        monkeypatch.setattr(sys, "argv", ["srvae-pyro", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert (end.value.code or 0) == code
        assert said in "".join(capsys.readouterr())
