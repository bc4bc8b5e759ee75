"""Recipes: what is written reads back, and every mistake is named by file, key, value and nearest key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from inspect_cli.recipe import Budget, load_recipe, parse_recipe
from inspect_cli.recipe.docs import recipe_markdown, recipe_schema_json
from inspect_cli.recipe.schema import MapSpec, Recipe
from inspect_cli.recipe.template import KNOWN_MAPS, commented_yaml, new_recipe

QUICK = settings(derandomize=True, deadline=None, max_examples=60)
MODELS = Path(__file__).parent.parent / "models"
LEAST = "material: foil\nmaps:\n  albedo: {files: '{part}_albedo.tif'}\n"


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a recipe's section and all sections below it."""
    found = [model]
    for name, field in model.model_fields.items():
        inner = MapSpec if name == "maps" else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += sections(inner)
    return found


# ---------------------------------------------------------------- round trip


@pytest.mark.parametrize("path", sorted(MODELS.glob("*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_shipped_recipe_reads_and_round_trips(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.material == path.parent.name
    assert parse_recipe(commented_yaml(recipe), "again") == recipe


TEXTS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\x85"), max_size=40
) | st.sampled_from(
    [
        "",
        "null",
        "yes",
        "1e3",
        "0x1f",
        "# no comment",
        "a: b",
        "and so on...",
        "---",
        "'",
        '"',
        "- x",
        "*a",
        "&a",
        "!t",
        " x ",
    ]
)
SPECS = st.builds(
    lambda stem, channels, dtype, span: {
        "files": f"{{part}}{stem}.tif",
        "channels": channels,
        "dtype": dtype,
        "range": span,
    },
    st.text("ab1_#: '\"-", max_size=8),
    st.integers(1, 64),
    st.sampled_from([None, "uint8", "float32"]),
    st.sampled_from(["type", "train", [-1, 1], [0.001, 1e6], [-1e-5, 1e-7]]),
)


@QUICK
@given(TEXTS, st.lists(SPECS, min_size=1, max_size=3, unique_by=lambda s: s["files"]), st.data())
def test_any_recipe_round_trips_through_its_commented_text(
    text: str, specs: list[dict[str, Any]], data: st.DataObject
) -> None:
    given_keys: dict[str, Any] = {
        "material": "foil-2",
        "description": text,
        "maps": {f"map{n}": spec for n, spec in enumerate(specs)},
        "size_px": data.draw(st.none() | st.just([5496, 3672])),
        "pixel_pitch_um": data.draw(st.none() | st.floats(1e-9, 1e9)),
        "roi": data.draw(st.sampled_from([{}, {"rule": "file", "file": "{part} roi.png", "map": "map0"}])),
        "tiles": {"size_px": 64, "stride_px": data.draw(st.integers(1, 64)), "blend": "hann"},
        "method": {
            "settings": data.draw(st.sampled_from([{}, {"architecture": "x: y", "list": [1, None, {"b": 2.5}]}]))
        },
        "training": {"data": data.draw(st.none() | st.text("a/# :", min_size=1)), "learning_rate": 1e-7},
    }
    recipe = Recipe.model_validate(given_keys)
    again = parse_recipe(commented_yaml(recipe), "again")
    assert again == recipe
    assert again.digest() == recipe.digest()


@pytest.mark.parametrize("name", ["1", "on", "null", "2024-01-01", "0x1f"])
def test_map_names_that_yaml_takes_for_something_else_round_trip(name: str) -> None:
    recipe = new_recipe("foil", {name: MapSpec(files="{part}.tif")})
    assert parse_recipe(commented_yaml(recipe), "again") == recipe


def test_rare_line_break_round_trips() -> None:
    recipe = Recipe(material="foil", maps=KNOWN_MAPS, description="a\x85b")
    assert parse_recipe(commented_yaml(recipe), "again") == recipe


def test_commented_text_explains_every_key_above_it() -> None:
    lines = [line.strip() for line in commented_yaml(new_recipe("foil", KNOWN_MAPS)).splitlines()]
    for section in sections(Recipe):
        for key, field in section.model_fields.items():
            assert field.description
            last_word = field.description.split()[-1]
            above = [lines[n - 1] for n, line in enumerate(lines) if line.startswith(f"{key}:")]
            assert any(line.startswith("# ") and line.endswith(last_word) for line in above)


# ---------------------------------------------------------------- the schema itself


def test_recipe_cannot_be_changed_after_loading() -> None:
    recipe = parse_recipe(LEAST, "x")
    for section, key in ((recipe, "material"), (recipe.tiles, "size_px"), (recipe.maps["albedo"], "channels")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 1)


def test_digest_follows_the_content_not_the_formatting() -> None:
    one = parse_recipe(LEAST + "tiles: {size_px: 128, stride_px: 64}\n", "x")
    two = parse_recipe("# a comment\n" + LEAST + "tiles:\n  stride_px: 64\n  size_px: 128\n", "y")
    other = parse_recipe(LEAST + "tiles: {stride_px: 32}\n", "z")
    assert one.digest() == two.digest()
    assert parse_recipe(LEAST, "x").digest() == parse_recipe(LEAST + "tiles: {size_px: null}\n", "x").digest()
    assert one.digest() != other.digest()


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [("90s", None, 90), ("8m", None, 480), ("1.5h", None, 5400), ("5000steps", 5000, None), (" 1 step ", 1, None)],
)
def test_budget(text: str, steps: int | None, seconds: float | None) -> None:
    assert Budget.parse(text) == Budget(steps, seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "m", "0s", "0steps", "-1s", "1d", "1e3s", "5s extra", "1,5h", "1 000s", "infs"]
)
def test_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="no budget"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["90s", "60s", "2m", "150s", "1h", "90m", "107.7s", "5000steps"])
def test_a_budget_is_written_as_it_is_typed(text: str) -> None:
    assert str(Budget.parse(text)) == text


def test_a_budget_has_one_way_to_be_written() -> None:
    assert [str(Budget.parse(text)) for text in ("120s", "60m", "1m", "1 step")] == ["2m", "1h", "60s", "1steps"]


def test_shares_of_a_budget() -> None:
    assert Budget(seconds=100).share(0.3) == Budget(seconds=30)
    assert Budget(steps=15).share(0.1) == Budget(steps=2)
    assert Budget(steps=1).share(0.1) == Budget(steps=1)
    assert Budget(seconds=100).seconds_a_map(4) == 25
    assert Budget(steps=100).seconds_a_map(4) is None


# ---------------------------------------------------------------- documentation


def test_page_and_schema_name_every_key() -> None:
    page = recipe_markdown()
    schema = json.loads(recipe_schema_json())
    assert schema["type"] == "object"
    definitions = [schema, *schema["$defs"].values()]
    for section in sections(Recipe):
        title = next(d for d in definitions if d["title"] == section.__name__)
        assert title["additionalProperties"] is False
        assert set(title["properties"]) == set(section.model_fields)
        for key, field in section.model_fields.items():
            row = next(line for line in page.splitlines() if line.startswith(f"| `{key}` |"))
            assert row.replace("\\|", "").count("|") == 5
            assert page.count((field.description or "?").replace("|", "\\|")) >= 1


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    schema = json.loads(recipe_schema_json())

    def references(node: Any) -> list[str]:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        own = [node["$ref"]] if isinstance(node, dict) and "$ref" in node else []
        return own + [reference for child in children for reference in references(child)]

    found = references(schema)
    assert found
    for reference in found:
        assert reference.removeprefix("#/$defs/") in schema["$defs"]
    example = yaml.safe_load(commented_yaml(new_recipe("foil", KNOWN_MAPS)))
    assert set(example) == set(schema["properties"])
