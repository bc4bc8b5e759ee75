"""The training loop of one map: steps, validation, early stopping, checkpoints.

Each step's patches and random numbers follow from (seed, step), so a run that was interrupted and resumed
ends, on a CPU, with the same weights as one that was not (with a budget in steps; a budget in time ends where it
ends). A GPU adds in an order of its own.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import torch
from torch import Tensor

from inspect_cli.allocation import keep_freed_memory
from inspect_cli.engines.torch_engine import round_inputs, training_autocast
from inspect_cli.errors import ModelError
from inspect_cli.methods.base import Batch, Detector
from inspect_cli.processors import usable_processors
from inspect_cli.stopping import Interrupted
from inspect_cli.training.batches import (
    MapTraining,
    begin_tiles,
    fit_tiles,
    training_batch,
    validation_batches,
)
from inspect_cli.training.budget import step_size
from inspect_cli.training.checkpoint import Optimizers, TrainingState, load_checkpoint, save_checkpoint

CHECKPOINT_EVERY_S = 60.0
#: Threads that make batches for a GPU; more of them wait for each other.
_MOST_MAKERS: Final = 6


class StepReport(Protocol):
    """Told after each step."""

    def __call__(self, progress: float, step: int, loss: float, val_loss: float | None, steps_per_s: float) -> None:
        """Show the state: progress 0 to 1, losses, rate."""
        ...


def train_map(
    job: MapTraining, report: StepReport, resume: bool = False, stop: Callable[[], bool] = lambda: False
) -> TrainingState:
    """Train ``job.detector``; afterwards it holds the weights of the best validation.

    Raises
    ------
    ModelError
        If the loss is not finite, or the checkpoint to resume from does not fit.
    Interrupted
        When ``stop``, asked between steps, says so; the state was saved first.
    """
    torch.manual_seed(job.seed)
    round_inputs(job.device, tf32=False)
    if job.device.type == "cpu":
        keep_freed_memory()
    detector = job.detector.placed(job.device)
    optimizers = detector.optimizers(job.spec.learning_rate)
    restored = load_checkpoint(job.checkpoint, job.fingerprint, detector, optimizers) if resume else None
    if restored is None:
        detector.begin(begin_tiles(job))
    state, best = restored or (TrainingState(job.fingerprint), _copy(detector))
    if job.device.type != "cpu" and detector.trains and not state.finished:
        _warm_up(job)
    job.budget.start(state.spent_s)
    if not state.finished and detector.trains:
        best = _run(job, optimizers, state, best, report, stop)
        if not state.best_loss < float("inf"):
            raise ModelError("training failed: the validation loss is no number; look for NaN in the images")
        state.finished, state.spent_s = True, job.budget.elapsed_s()
        save_checkpoint(job.checkpoint, state, detector, best, optimizers)
    detector.load_state_dict(best)
    detector.eval()
    if detector.fit_patches:
        detector.fit(fit_tiles(job))
    if not detector.trains:
        state.best_loss = validation_loss(detector, validation_batches(job), contextlib.nullcontext())
        state.spent_s = job.budget.elapsed_s()
    return state


def _run(
    job: MapTraining,
    optimizers: Optimizers,
    state: TrainingState,
    best: dict[str, Tensor],
    report: StepReport,
    stop: Callable[[], bool],
) -> dict[str, Tensor]:
    validation = validation_batches(job)
    autocast = training_autocast(job.device)
    saved = time.monotonic()
    first_step, started = state.step, time.monotonic()
    for batch in _prefetched(job, state.step):
        if stop():
            state.spent_s = job.budget.elapsed_s()
            save_checkpoint(job.checkpoint, state, job.detector, best, optimizers)
            raise Interrupted(job.checkpoint)
        progress = job.budget.progress(state.step)
        if progress >= 1.0 and state.step > 0:
            break
        torch.manual_seed((job.seed * 1_000_003 + state.step) % 2**63)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = step_size(job.spec.learning_rate, progress) * group.get("pace", 1.0)
        loss = _step(job, batch, optimizers, autocast)
        state.step += 1
        val_loss: float | None = None
        if state.step % job.spec.validate_every == 0:
            val_loss = validation_loss(job.detector, validation, autocast)
            best = _judge(job, state, val_loss, best)
        state.history.append({"step": state.step, "train_loss": loss, "val_loss": val_loss})
        rate = (state.step - first_step) / max(time.monotonic() - started, 1e-9)
        report(progress, state.step, loss, val_loss, rate)
        if state.waited >= job.spec.patience:
            state.stopped_early = True
            break
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            state.spent_s = job.budget.elapsed_s()
            save_checkpoint(job.checkpoint, state, job.detector, best, optimizers)
            saved = time.monotonic()
    return _judge(job, state, validation_loss(job.detector, validation, autocast), best)


def _step(job: MapTraining, batch: Batch, optimizers: Optimizers, autocast: object) -> float:
    job.detector.train()
    loss = job.detector.train_step(batch, optimizers, autocast)
    if not loss < float("inf"):
        raise ModelError(
            f"training diverged: the loss is {loss}; look for NaN in the images, or lower training.learning_rate"
        )
    return loss


def _judge(job: MapTraining, state: TrainingState, val_loss: float, best: dict[str, Tensor]) -> dict[str, Tensor]:
    if val_loss < state.best_loss:
        state.best_loss, state.waited = val_loss, 0
        return _copy(job.detector)
    state.waited += 1
    return best


def _copy(detector: Detector) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in detector.state_dict().items()}


def _prefetched(job: MapTraining, first_step: int) -> Iterator[Batch]:
    """Yield the batches from ``first_step`` on; the next ones are made while the network works."""
    makers = _makers(job.device, usable_processors())
    with ThreadPoolExecutor(makers) as pool:
        made = deque(pool.submit(training_batch, job, first_step + ahead) for ahead in range(makers))
        try:
            for step in itertools.count(first_step + makers):
                batch = made.popleft().result()
                made.append(pool.submit(training_batch, job, step))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _makers(device: torch.device, processors: int) -> int:
    """Return how many threads make batches: a network on the CPU needs the processors itself."""
    return 1 if device.type == "cpu" else max(1, min(_MOST_MAKERS, processors - 1))


def _warm_up(job: MapTraining) -> None:
    """Take a step with a copy: the first one on a GPU loads its libraries and kernels, seconds that train nothing."""
    detector = copy.deepcopy(job.detector)
    optimizers = detector.optimizers(job.spec.learning_rate)
    detector.train()
    detector.train_step(training_batch(job, 0), optimizers, training_autocast(job.device))


@torch.no_grad()
def validation_loss(detector: Detector, batches: list[Batch], autocast: object) -> float:
    """Return the mean loss over ``batches`` with the network in evaluation mode."""
    detector.eval()
    with autocast:  # type: ignore[attr-defined]
        losses = [float(detector.loss(batch)) for batch in batches]
    return sum(losses) / len(losses)
