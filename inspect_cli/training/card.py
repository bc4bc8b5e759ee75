"""The model card: what was trained, on what, how well, and what its limits rest on."""

from __future__ import annotations

from collections.abc import Mapping

from inspect_cli.material.bundle import Bundle
from inspect_cli.material.manifest import Suspect, Trial, Usual
from inspect_cli.store.atomic import write_text

CARD = "model_card.md"


def write_card(bundle: Bundle) -> None:
    """Write ``model_card.md`` beside the manifest; every figure comes from the manifest."""
    write_text(bundle.folder / CARD, card_markdown(bundle))


def card_markdown(bundle: Bundle) -> str:
    """Return the model card as Markdown."""
    manifest = bundle.manifest
    lines = [
        f"# Model card: {manifest.material}, method `{manifest.method}`",
        "",
        f"Trained {manifest.created_utc} by {manifest.tool}, seed {manifest.seed}, tiles of {manifest.tile_px} px.",
        f"Model sha256 `{manifest.digest()}`.",
        "",
        "## Networks",
        "",
        "| map | channels | steps | seconds | validation loss | variance explained | value range |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, trained in manifest.maps.items():
        explained = "n/a" if trained.explained_variance is None else f"{trained.explained_variance:.1%}"
        stopped = " (stopped early)" if trained.stopped_early else ""
        lines.append(
            f"| {name} | {trained.channels} | {trained.steps}{stopped} | {trained.seconds:.0f} | "
            f"{trained.validation_loss:.6f} | {explained} | {trained.dtype}: {trained.low:g} to {trained.high:g} |"
        )
    if manifest.trials:
        lines += ["", "## Why this method", "", *_trials(manifest.trials)]
    if manifest.checks:
        lines += ["", "## Artificial defects", "", *_checks(manifest.checks)]
    usual = {name: trained.usual for name, trained in manifest.maps.items() if trained.usual is not None}
    if usual:
        lines += ["", "## Parts that lie alike", "", *_usual(usual)]
    if manifest.suspects:
        lines += ["", "## Parts that stand out", "", *_suspects(manifest.suspects)]
    lines += ["", "## Warnings", "", *([f"- {w}" for w in manifest.cautions] or ["None."])]
    lines += ["", "## Limits", "", *_limits(bundle)]
    lines += ["", "## Training set", "", "| part | map | use | sha256 |", "| --- | --- | --- | --- |"]
    lines += [f"| {f.part} | {f.map} | {f.use} | `{f.sha256[:16]}` |" for f in manifest.training_set]
    return "\n".join(lines) + "\n"


def _trials(trials: list[Trial]) -> list[str]:
    kinds = sorted({kind for trial in trials for kind in trial.by_kind})
    lines = [
        "Each method was trained briefly and shown artificial defects in held-out good parts. Area under the ROC "
        "curve of the pixels, in all and by kind of defect:",
        "",
        f"| method | mean | {' | '.join(kinds)} | steps | seconds |",
        "| --- |" + " ---: |" * (len(kinds) + 3),
    ]
    for trial in trials:
        if trial.pixel_auroc is None:
            what = "not measured" if trial.steps else "not tried"
            spent = f" {trial.steps} | {trial.seconds:.0f} |" if trial.steps else " | |"
            lines.append(f"| {trial.method} | {what}: {trial.note} |" + " |" * len(kinds) + spent)
            continue
        cells = [f"{value:.3f}" for value in (trial.pixel_auroc, *(trial.by_kind[kind] for kind in kinds))]
        lines.append(f"| {trial.method} | {' | '.join(cells)} | {trial.steps} | {trial.seconds:.0f} |")
    return lines


def _checks(checks: dict[str, Trial]) -> list[str]:
    kinds = sorted({kind for check in checks.values() for kind in check.by_kind})
    return [
        "What the trained network of each map makes of artificial defects in held-out good parts: area under the ROC "
        "curve of the pixels. It says that the network sees something, not how real defects will do.",
        "",
        f"| map | mean | {' | '.join(kinds)} |",
        "| --- |" + " ---: |" * (len(kinds) + 1),
        *(
            f"| {name} | {check.pixel_auroc:.3f} | {' | '.join(f'{check.by_kind[kind]:.3f}' for kind in kinds)} |"
            for name, check in checks.items()
        ),
    ]


def _usual(usual: Mapping[str, Usual]) -> list[str]:
    lines = [
        "Good parts score high at the same places, such as edges and holes. Scores of images of this size are "
        "divided by how high good parts go at each place. `usual_MAP.png` shows that: black as in most places or "
        "lower, the brightest colour three times as high. How far a part's brightness lies from that of good parts "
        "at the same place, onto which it is laid first, is added, by the weight below for each squared standard "
        "deviation.",
        "",
        "| map | image px | parts lie | cell px | parts | rank correlation between two | weight of brightness |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, u in usual.items():
        how = "at any angle" if u.turned else "alike"
        weight = "-" if u.brightness_weight is None else f"{u.brightness_weight:.3g}"
        lines.append(
            f"| {name} | {u.width_px}x{u.height_px} | {how} | {u.cell_px} | {u.parts} | {u.alike:.2f} | {weight} |"
        )
    return lines


def _suspects(suspects: list[Suspect]) -> list[str]:
    return [
        "Good parts with a place that does not look like the others; `suspects.png` beside the recipe shows them.",
        "",
        "| part | map | x px | y px | times usual | in training |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        *(
            f"| {s.part} | {s.map} | {s.x_px} | {s.y_px} | {s.times_usual:.1f} | {'no' if s.left_out else 'yes'} |"
            for s in suspects
        ),
    ]


def _limits(bundle: Bundle) -> list[str]:
    calibration = bundle.manifest.calibration
    if calibration is None:
        return ["None set."]
    return [
        f"{calibration.origin}; {calibration.promise}. Set {calibration.created_utc}.",
        "",
        "| map | limit of the anomaly map | limit of a patch's mean residual |",
        "| --- | --- | --- |",
        *(f"| {name} | {limit.pixel:.4g} | {limit.patch:.4g} |" for name, limit in calibration.limits.items()),
    ]
