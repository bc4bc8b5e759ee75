"""A small batch, a small material and a briefly trained model, made once for all tests."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

# A shell that starts the tests in the background lets them ignore SIGINT, and so the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent

_HAS_GPU = torch.cuda.is_available
_VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES", "0")

RECIPE = """
material: foil
pixel_pitch_um: 5.0
maps:
  albedo: {files: "{part}_albedo.tif", channels: 1}
  normal: {files: "{part}_normal.tif", channels: 3}
tiles: {size_px: 32, stride_px: 16}
method: {name: cae, settings: {architecture: cifar10, hidden: 64, latent: 24}}
training: {batch: 8, learning_rate: 5e-3, validate_every: 50, budget: 200steps}
scoring: {smooth_sigma_px: 1.5, min_area_px: 4}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker ends long after the others."""
    items.sort(key=lambda item: item.path.name != "test_faults.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hide a GPU from the tests of everything else and from the programs that they start.

    They plant faults where a CPU scores, and name engines that a GPU has not.
    """
    of_gpu = item.path.name == "test_cuda.py"
    torch.cuda.is_available = _HAS_GPU if of_gpu else lambda: False
    os.environ["CUDA_VISIBLE_DEVICES"] = _VISIBLE_GPUS if of_gpu else ""


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a store of the machine's user out of the tests."""
    monkeypatch.delenv("INSPECT_MODELS", raising=False)


@pytest.fixture(autouse=True)
def _files_just_written_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests write a batch and score it at once."""
    monkeypatch.setenv("INSPECT_SETTLE_S", "0")


@pytest.fixture(autouse=True)
def _torch_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same engine whatever is installed; tests of others name them."""
    monkeypatch.setattr("inspect_cli.engines.choice.fastest_on_cpu", lambda: "torch")


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that the first worker to need it makes; no test may change it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f"{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def shared_batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated riblet batch of small parts: 4 good (3 train, 1 test), 3 defective."""
    from inspect_cli.sample.batch import write_batch
    from inspect_cli.sample.plan import plan_batch

    def make(folder: Path) -> None:
        write_batch(plan_batch("riblet", 7, 3, (200, 150), ["albedo", "normal"], 3), folder)

    return _made_once(tmp_path_factory, "X", make)


@pytest.fixture(scope="session")
def shared_models(tmp_path_factory: pytest.TempPathFactory, shared_batch: Path) -> Path:
    """A store with the material ``foil``, briefly trained."""
    from inspect_cli.cli import run

    def make(store: Path) -> None:
        (store / "foil").mkdir(parents=True)
        (store / "foil" / "recipe.yaml").write_text(RECIPE)
        code = run(["train", "--material", "foil", "--models", str(store), "--data", str(shared_batch / "train")])
        assert code == 0

    return _made_once(tmp_path_factory, "models", make)


@pytest.fixture
def batch(shared_batch: Path, tmp_path: Path) -> Path:
    """A copy of the batch that a test may change."""
    return Path(shutil.copytree(shared_batch, tmp_path / "X"))


@pytest.fixture
def models(shared_models: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may change."""
    return Path(shutil.copytree(shared_models, tmp_path / "models"))


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory, shared_batch: Path, shared_models: Path) -> Path:
    """The run folder that the first `inspect score` of the batch leaves."""
    from inspect_cli.cli import run

    def make(out: Path) -> None:
        common = ["--material", "foil", "--models", str(shared_models), "--engine", "torch", "--settle-s", "0"]
        assert run(["score", str(shared_batch / "test"), *common, "--out", str(out)]) == 0

    return _made_once(tmp_path_factory, "run", make)


@pytest.fixture
def results(shared_run: Path, batch: Path) -> Path:
    """A copy of it beside a copy of the batch, which a test may change."""
    return Path(shutil.copytree(shared_run, batch / "test" / "inspection" / "foil"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, much slower where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
