"""``inspect augment``: generate more good patches to train on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from inspect_cli import console
from inspect_cli.commands.options import Device, Json, Models, check_name, parse_budget, parse_names


def augment(
    material: Annotated[str, typer.Option("--material", "-m", help="Name of the material.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for the generated parts.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of good parts.", show_default="what the recipe names"),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option("--maps", help="Maps to generate, separated by commas.", show_default="all of the recipe"),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of parts to write, each one patch.")] = 256,
    budget: Annotated[str, typer.Option("--budget", help="Time (90s, 10m, 1h) or steps (2000steps).")] = "10m",
    width: Annotated[
        int,
        typer.Option("--width", min=1, help="Channels of the layer next to the image; 16 suit a CPU, 64 a GPU."),
    ] = 16,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed; take the same for `inspect train`, so that both split alike.")
    ] = 0,
    device: Device = "auto",
    models: Models = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds files; generated ones are replaced.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Generate more good patches of a material with a DCGAN.

    One network learns all maps together, so that they stay registered. Its patches are written as parts that
    `inspect train --extra FOLDER` adds to the real ones. They are compared with real patches first; warnings,
    augment.json and inspection/samples.png in the folder say whether they are of use.

    \b
    Examples:
      inspect augment --material riblet --out more
      inspect augment --material fabric --data photos/good --out more --count 500 --budget 20m
      inspect train --material fabric --data photos/good --extra more
    """  # noqa: D301
    import json

    from inspect_cli.generate.augment import AugmentOrder
    from inspect_cli.generate.augment import augment as generate
    from inspect_cli.generate.output import PICTURE
    from inspect_cli.stopping import Interrupted, graceful_stop
    from inspect_cli.training.material import maps_to_train, material_to_train, parts_to_train

    check_name(material)
    asked = parse_budget(budget)
    names = parse_names(maps, "--maps")
    chosen = material_to_train(material, data, models, maps is not None, console)
    wanted = maps_to_train(chosen, names)
    parts = parts_to_train(chosen, data, wanted, console)
    order = AugmentOrder(chosen, parts, wanted, out, count, width, asked, seed, device, force)
    with graceful_stop() as stopper:
        try:
            record = generate(order, console, stopper.wanted)
        except Interrupted:
            console.say("interrupted; nothing was written")
            raise typer.Exit(stopper.exit_code) from None
    quoted = shlex.quote(str(out))
    console.say(f"look at {out / PICTURE}; next: inspect train --material {material} --extra {quoted} --seed {seed}")
    told = {key: value for key, value in record.items() if key not in ("files", "losses")}
    console.out(json.dumps({"out": str(out)} | told) if as_json else str(out))
