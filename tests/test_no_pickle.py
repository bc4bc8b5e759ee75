"""Models are data: nothing in the package can load a pickle or run what a file says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import inspect_cli

PACKAGE = Path(inspect_cli.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
#: Modules whose loaders run code from a file, or are built on such.
FORBIDDEN_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
#: Calls that run text or files, by the last word of their name.
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "read_pickle", "unsafe_load", "full_load", "load_all"}
#: Loaders that are safe only with this argument.
SAFE_ONLY_WITH = {
    ("torch", "load"): ("weights_only", True),
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
}
#: Methods of the same name that run nothing: a network's mode, a regular expression, a graph.
HARMLESS_OWNERS = {"re"}


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.Call):
            yield from _call_faults(node)


def _call_faults(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
        yield f"calls {node.func.id}"
    if not isinstance(node.func, ast.Attribute):
        return
    owner, name = ast.unparse(node.func.value), node.func.attr
    if name in FORBIDDEN_CALLS - {"eval", "compile"} and owner not in HARMLESS_OWNERS:
        yield f"calls {owner}.{name}"
    if (owner, name) == ("yaml", "load"):
        loader = [ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"]
        loader += [ast.unparse(argument) for argument in node.args[1:2]]
        if not loader or "Safe" not in loader[0]:
            yield "calls yaml.load without a safe loader"
    if (owner, name) in SAFE_ONLY_WITH:
        key, value = SAFE_ONLY_WITH[owner, name]
        given = {k.arg: k.value for k in node.keywords}.get(key)
        if not isinstance(given, ast.Constant) or given.value is not value:
            yield f"calls {owner}.{name} without {key}={value}"


def test_nothing_in_the_package_can_load_a_pickle():
    assert len(SOURCES) > 100
    found = [f"{path.relative_to(PACKAGE)}: {fault}" for path in SOURCES for fault in faults(path.read_text())]
    assert found == []


def test_the_walk_sees_what_it_looks_for():
    bad = """
import pickle
from joblib import load
torch.load(path)
torch.load(path, weights_only=False)
np.load(path, allow_pickle=True)
yaml.load(text, Loader=yaml.Loader)
eval(text)
pandas.read_pickle(path)
"""
    assert len(list(faults(bad))) == 8
    good = """
torch.load(path, weights_only=True)
network.eval()
re.compile(text)
yaml.safe_load(text)
"""
    assert list(faults(good)) == []
