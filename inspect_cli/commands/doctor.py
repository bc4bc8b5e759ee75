"""``inspect doctor``: look at this installation."""

from __future__ import annotations

import json

from inspect_cli import console
from inspect_cli.commands.options import Json, Models


def doctor(models: Models = None, as_json: Json = False) -> None:
    """Say what slows this installation down, and what would help.

    Looks at processors, threads, GPU, memory, disk, engines and materials, and times a network in the
    engines and precisions that may pay here. Takes some seconds; other programs should be quiet.

    \b
    Examples:
      inspect doctor
      inspect doctor --json | jq '.[] | select(.advice != "")'
    """  # noqa: D301
    from dataclasses import asdict

    from inspect_cli.benchmark.doctor import Finding, examine

    def tell(finding: Finding) -> None:
        console.out(f"{finding.name:<16} {finding.found}")
        if finding.advice:
            console.out(f"{'':<16} -> {finding.advice}")

    findings = examine(models, (lambda _: None) if as_json else tell)
    if as_json:
        console.out(json.dumps([asdict(finding) for finding in findings]))
