"""Imports point downwards, without a circle, and stand at the top of their files."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "srvae_pyro"
LAYERS = [
    ["errors"],
    ["pixels", "formats"],
    ["checked", "config", "presets"],
    ["system"],
    ["networks"],
    ["distributions"],
    ["inference"],
    ["runs"],
    ["models"],
    ["data"],
    ["drawing"],
    ["upscaling"],
    ["compression"],
    ["evaluation"],
    ["training"],
    ["page"],
    [
        "train",
        "generate",
        "upscale",
        "figures",
        "evaluate",
        "compress",
        "decompress",
        "demo",
        "export",
    ],
    ["__main__", ""],
]
COMMANDS = LAYERS[-2]
# Packages that may be missing, or that take a second or more to import and are seldom needed.
LAZY = {
    "arviz_stats.base",
    "imagecodecs",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pillow_heif",
    "pillow_jxl.JpegXLImagePlugin",
    "scipy.ndimage",
    "skimage",
    "torch.utils.tensorboard",
    "torch_fidelity",
    "torchvision.datasets",
    "torchvision.datasets.utils",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}


def imported(node: ast.AST) -> set[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    assert node.level == 0, "imports are absolute"
    full = {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in MODULES else str(node.module) for name in full}


def imports(module: str) -> set[str]:
    """The modules of the package that one needs, wherever the import stands."""
    found = {name for node in ast.walk(MODULES[module]) for name in imported(node)}
    found.discard("srvae_pyro")  # for its version
    return {name for name in found if name in MODULES and name != module}


def layer_of(module: str) -> int:
    part = module.removeprefix("srvae_pyro").removeprefix(".").split(".")[0]
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def test_imports_point_downwards() -> None:
    upwards = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if layer_of(other) > layer_of(module)
    ]
    assert not upwards


def test_imports_have_no_circle() -> None:
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()  # or CycleError


def test_imports_stand_at_the_top_but_for_a_commands_one() -> None:
    for module, tree in MODULES.items():
        functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
        inner = [
            imported(node)
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        own = [names for names in inner if not names <= LAZY]
        allowed = 1 if module.removeprefix("srvae_pyro.") in COMMANDS else 0
        assert len(own) <= allowed, f"{module} imports {own} within functions"


def test_files_are_chapters() -> None:
    lengths = {p.name: len(p.read_text("utf-8").splitlines()) for p in PACKAGE.rglob("*.py")}
    assert [name for name, lines in lengths.items() if lines > 600] == []


def test_files_are_few() -> None:
    assert len(MODULES) <= 128
