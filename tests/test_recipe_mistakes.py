"""Every mistake in a recipe is named by file, key, value and nearest key; hostile text does nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from inspect_cli.errors import RecipeError
from inspect_cli.recipe import load_recipe, parse_recipe

LEAST = "material: foil\nmaps:\n  albedo: {files: '{part}_albedo.tif'}\n"


def refusal(text: str) -> str:
    """Return the message with which recipe text is refused; it must name the file, on one line."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "models/foil/recipe.yaml")
    message = str(caught.value)
    assert message.startswith("models/foil/recipe.yaml: ")
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "unknown key": ("tile: {size_px: 64}", ["unknown key 'tile'", "did you mean 'tiles'?", "scoring"]),
    "unknown key in a section": ("tiles: {size: 64}", ["'tiles.size'", "did you mean 'size_px'?", "stride_px"]),
    "unknown key in a map": (
        "maps: {a: {files: '{part}.tif', chanels: 3}}",
        ["'maps.a.chanels'", "'channels'", "range"],
    ),
    "unknown key in a map named as a key": (
        "maps: {roi: {files: '{part}.tif', typ: 3}}",
        ["'maps.roi.typ'", "dtype"],
    ),
    "missing key": ("maps: {a: {channels: 3}}", ["maps.a.files: missing"]),
    "wrong type": ("tiles: {size_px: many}", ["tiles.size_px", "'many'"]),
    "out of range": ("tiles: {size_px: 4}", ["tiles.size_px", "greater than or equal to 8", "it is 4"]),
    "not a number": ("scoring: {smooth_sigma_px: .nan}", ["scoring.smooth_sigma_px", "nan"]),
    "infinite pitch": ("pixel_pitch_um: .inf", ["pixel_pitch_um", "inf"]),
    "unknown word": ("roi: {rule: saturate}", ["roi.rule", "'saturated'", "'saturate'"]),
    "word and numbers": (
        "maps: {a: {files: '{part}.tif', range: typ}}",
        ["maps.a.range", "'type' or 'train'", "'typ'"],
    ),
    "range turned round": ("maps: {a: {files: '{part}.tif', range: [2, 1]}}", ["maps.a.range", "below", "[2, 1]"]),
    "stride above the tile": ("tiles: {size_px: 64, stride_px: 65}", ["tiles", "stride_px 65", "64"]),
    "file without rule": ("roi: {file: x.png}", ["roi", "rule 'file'"]),
    "rule without file": ("roi: {rule: file}", ["roi", "'file' is needed"]),
    "map of the rule": ("roi: {rule: dark, map: albdo}", ["roi.map 'albdo'", "albedo"]),
    "absolute file": ("maps: {a: {files: '/data/{part}.tif'}}", ["maps.a.files", "relative", "/data/"]),
    "file above the folder": ("roi: {rule: file, file: '../x.png'}", ["roi", "..'"]),
    "no part in the pattern": ("maps: {a: {files: 'albedo.tif'}}", ["maps.a.files", "{part}", "'albedo.tif'"]),
    "two parts in the pattern": ("maps: {a: {files: '{part}/{part}.tif'}}", ["maps.a.files", "exactly once"]),
    "same pattern twice": (
        "maps: {a: {files: '{part}.tif'}, b: {files: '{part}.tif'}}",
        ["maps", "same file pattern"],
    ),
    "map name": ("maps: {'a b': {files: '{part}.tif'}}", ["maps", "'a b'"]),
    "files that are never maps": (
        "maps: {a: {files: '{part}_MASK.*'}}",
        ["maps", "'a'", "*_mask and *_roi are never"],
    ),
    "a map named like the mask of another": (
        "maps: {a: {files: '{part}.png'}, b: {files: '{part}_label.png'}}",
        ["maps", "'b'", "{part}_label.png", "mask"],
    ),
    "material name": ("material: ../foil", ["material", "'../foil'"]),
    "no maps": ("maps: {}", ["maps", "at least 1"]),
    "nothing": ("maps:", ["maps", "None"]),
    "budget": ("training: {budget: 10 days}", ["training.budget", "'10 days'", "5000steps"]),
    "number as budget": ("training: {budget: 10}", ["training.budget", "it is 10"]),
    "fraction of a step": ("training: {budget: 1.5steps}", ["training.budget", "whole"]),
    "number as key": ("1: 2", ["1", "in quotes"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named_by_key_value_and_what_is_valid(name: str) -> None:
    line, words = MISTAKES[name]
    key = line.partition(":")[0]
    kept = [
        text
        for text in LEAST.replace("maps:\n ", "maps: {").replace("}\n", "}}\n").splitlines()
        if not text.startswith(f"{key}:")
    ]
    message = refusal("\n".join([*kept, line]))
    for word in words:
        assert word in message


def test_several_mistakes_are_all_named() -> None:
    message = refusal("maps: {a: {channels: 0}}\ntile: 1\n")
    for word in ("material: missing", "maps.a.files: missing", "maps.a.channels", "'tile'"):
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a recipe is a mapping"),
        ("[a, b]", "a recipe is a mapping"),
        ("material: [", "not valid YAML: line"),
        ("material: a\n\tmaps: b", "not valid YAML: line 2"),
        (LEAST + "material: steel\n", "line 4, column 1: key 'material' is written twice"),
        (LEAST + "tiles: {size_px: 8, size_px: 9}\n", "key 'size_px' is written twice"),
        (LEAST + "---\n" + LEAST, "not valid YAML"),
        ("\x01", "not valid YAML"),
        (LEAST + "description: !!python/object/apply:os.getcwd []\n", "python/object/apply:os.getcwd"),
        (LEAST + "method: {settings: {x: !!python/name:os.system }}\n", "python/name:os.system"),
        (LEAST + "description: !thing x\n", "!thing"),
        (LEAST + "description: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        (LEAST + "x: *nothing\n", "alias has no place"),
    ],
)
def test_text_that_is_no_recipe_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)


SETTINGS = LEAST + "method: {settings: {x: %s}}\n"


@pytest.mark.parametrize(
    "text",
    [
        LEAST + "description: 2024-13-45\n",
        LEAST + "description: 0x_\n",
        LEAST + "description: 0b_\n",
        LEAST + f"size_px: [{'9' * 5000}, 1]\n",
        LEAST + "description: !!int x\n",
        LEAST + "description: !!bool x\n",
        LEAST + "description: !!timestamp x\n",
        LEAST + "? [a, b]\n: c\n",
        LEAST + "{a: b}: c\n",
        LEAST + "'a[0]': 1\n",
        LEAST + "description: !!binary x\n",
        LEAST + "<<: {a: b}\n",
    ],
)
def test_hostile_text_is_refused_and_nothing_else(text: str) -> None:
    refusal(text)


def test_unknown_key_with_a_bracket_is_named() -> None:
    assert "tiles.size[0]" in refusal(LEAST + "tiles: {'size[0]': 1}\n")


@pytest.mark.parametrize("value", ["&a [*a]", "[" * 270 + "]" * 270, '"\\ud800"', "!!binary /w=="])
def test_settings_that_json_cannot_hold_are_refused(value: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(SETTINGS % value, "recipe.yaml")


@pytest.mark.parametrize("place", ["settings", "message"])
def test_aliases_cannot_unfold_without_end(place: str) -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 6)]
    if place == "message":
        text = LEAST + "\n".join(lines) + "\ntiles: *a5\n"
        assert "alias" in refusal(text)
        return
    inner = "\n".join("    " + line for line in lines)
    try:
        recipe = parse_recipe(LEAST + "method:\n  settings:\n" + inner + "\n", "recipe.yaml")
    except RecipeError:
        return
    assert len(recipe.model_dump_json()) < 100_000


# ---------------------------------------------------------------- values that pass and must not


@pytest.mark.parametrize("key", ["description", "training: {data"])
def test_text_that_is_no_unicode_is_refused(key: str) -> None:
    refusal(LEAST + f'{key}: "\\ud800"' + ("}" if "{" in key else "") + "\n")


@pytest.mark.parametrize("span", ["[0, .inf]", "[-.inf, 0]"])
def test_infinite_range_is_refused(span: str) -> None:
    assert "range" in refusal(LEAST.replace("tif'}", f"tif', range: {span}}}"))


def test_size_below_one_pixel_is_refused() -> None:
    assert "size_px" in refusal(LEAST + "size_px: [0, -5]\n")


def test_map_name_with_a_line_break_is_refused() -> None:
    assert "maps" in refusal('material: foil\nmaps: {"albedo\\n": {files: "{part}.tif"}}\n')


# ---------------------------------------------------------------- files


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("description: Fläche".encode("latin-1"))
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert str(caught.value).startswith(f"{path}: cannot be read")


def test_byte_order_mark_of_an_editor_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(LEAST, encoding="utf-8-sig")
    assert load_recipe(tmp_path / "recipe.yaml").material == "foil"
