"""Files whole or absent; bundles that are refused; where materials are found."""

import errno
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from inspect_cli.errors import ModelError, OutputError, RecipeError, UsageError
from inspect_cli.material.bundle import find_bundle, other_bundles, read_bundle, write_manifest, write_weights
from inspect_cli.material.materials import SHIPPED, adopt, choose_material, find_material, known_materials
from inspect_cli.methods import build_detector
from inspect_cli.store import atomic
from inspect_cli.store.lock import lock_folder
from inspect_cli.store.timestamps import utc_after
from inspect_cli.training.shipped import mark_as_shipped


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    atomic.write_text(path, "first")

    def half(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        atomic.write_with(path, half)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().suffix))
        sync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        done.append(("rename", Path(target).name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    atomic.write_text(tmp_path / "file.txt", "content")
    assert done == [("sync", atomic.TEMPORARY_SUFFIX), ("rename", "file.txt"), ("sync", tmp_path.suffix)]


def test_nan_never_reaches_a_json_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", {"score": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_disk_full_and_unwritable_folder_are_output_errors(tmp_path):
    with pytest.raises(OutputError, match="disk full"), atomic.whole_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "plain").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        atomic.write_text(tmp_path / "plain" / "a.txt", "x")


def test_leftovers_of_a_killed_run_are_swept(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".mask.png.0a1b2c3d.tmp").write_text("half")
    (tmp_path / "sub" / "keep.tmp").write_text("a user's own file")
    assert atomic.sweep_leftovers(tmp_path) == 1
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["keep.tmp"]


def test_bundle_loads_the_weights_that_were_stored(models):
    bundle = find_bundle(models / "foil")
    for name, trained in bundle.manifest.maps.items():
        content = (bundle.folder / trained.weights).read_bytes()
        assert hashlib.sha256(content).hexdigest() == trained.sha256
        detector = bundle.detector(name)
        assert all(p.dtype == torch.float32 for p in detector.parameters())


def test_stored_network_scores_bit_identically_after_loading(models, tmp_path):
    torch.manual_seed(7)
    bundle = find_bundle(models / "foil")
    network = build_detector("cae", 1, 32, bundle.manifest.settings).eval()
    name, digest = write_weights(bundle.folder, "albedo", network.state_dict(), half=False)
    _edit(models, lambda m: m["maps"]["albedo"].update(weights=name, sha256=digest))
    loaded = read_bundle(bundle.folder).detector("albedo")
    tiles = torch.rand(4, 1, 32, 32)
    assert torch.equal(network.score(tiles), loaded.score(tiles))


def _weights(models: Path) -> Path:
    bundle = find_bundle(models / "foil")
    return bundle.folder / bundle.manifest.maps["albedo"].weights


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "pickle"])
def test_changed_weights_are_refused(models, damage, tmp_path):
    path = _weights(models)
    content = bytearray(path.read_bytes())
    marker = tmp_path / "ran"
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-10])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(pickle.dumps(_Payload(str(marker))))
    with pytest.raises(ModelError, match=path.name):
        read_bundle(models / "foil" / "cae").detector("albedo")
    assert not marker.exists()


class _Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_pickle_with_a_matching_hash_is_refused_too(models, tmp_path):
    path, marker = _weights(models), tmp_path / "ran"
    path.write_bytes(pickle.dumps(_Payload(str(marker))))
    _edit(models, lambda m: m["maps"]["albedo"].update(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(ModelError, match="does not fit"):
        read_bundle(models / "foil" / "cae").detector("albedo")
    assert not marker.exists()


def _edit(models: Path, change) -> None:
    path = models / "foil" / "cae" / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "newer version"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("maps"), "maps"),
        (lambda m: m["maps"]["albedo"].update(weights="../../etc/passwd"), "weights"),
        (lambda m: m["calibration"]["limits"]["albedo"].update(pixel=-1), "pixel"),
    ],
)
def test_foreign_manifests_are_refused(models, change, message):
    _edit(models, change)
    with pytest.raises(ModelError, match=message):
        read_bundle(models / "foil" / "cae")


def test_damaged_and_missing_manifests(models):
    (models / "foil" / "cae" / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="damaged manifest"):
        find_bundle(models / "foil")
    (models / "foil" / "cae" / "manifest.json").unlink()
    with pytest.raises(ModelError, match="not trained yet; run `inspect train --material foil`"):
        find_bundle(models / "foil")


def test_method_that_was_not_trained_names_those_that_were(models):
    with pytest.raises(ModelError, match=r"no model of method 'vae'; .*cae"):
        find_bundle(models / "foil", "vae")


def test_new_limits_change_the_limits_and_not_the_models_identity(models):
    bundle = find_bundle(models / "foil")
    calibration = bundle.require_calibration().model_copy(update={"provisional": False})
    changed = bundle.with_calibration(calibration)
    assert read_bundle(bundle.folder).manifest.calibration == calibration
    assert changed.manifest.digest() == bundle.manifest.digest()


def test_the_model_that_comes_with_the_program_says_so_and_is_never_guessed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    material = find_material("riblet")
    manifest = find_bundle(material.folder).manifest
    assert any("comes with the program, to try things out" in caution for caution in manifest.cautions)
    with pytest.raises(UsageError, match=r"which material\?.*trained: none"):
        choose_material(None, tmp_path)


def test_the_folder_of_a_material_given_as_a_store_is_told(models):
    with pytest.raises(UsageError, match="is the folder of a material; give the folder that it is in"):
        find_material("foil", models / "foil")


def test_a_model_that_is_trained_after_the_clock_was_set_back_is_the_last(models):
    manifest = read_bundle(models / "foil" / "cae").manifest
    ahead = manifest.model_copy(update={"created_utc": "2099-01-01T00:00:00+00:00"})
    write_manifest(models / "foil" / "cae", ahead)
    other = models / "foil" / "vae"
    known = [bundle.manifest.created_utc for bundle in other_bundles(other)]
    assert utc_after(known) == "2099-01-01T00:00:01+00:00"
    assert utc_after([]) <= utc_after(["2001-01-01T00:00:00+00:00"])
    assert other_bundles(models / "foil" / "cae") == []


def test_a_group_that_may_write_may_lock(tmp_path):
    before = os.umask(0o002)
    try:
        with lock_folder(tmp_path, "held"):
            assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


def test_materials_are_found_by_name_and_hide_later_stores(models, monkeypatch, tmp_path):
    assert find_material("foil", models).folder == models / "foil"
    assert "riblet" in known_materials(models), "the shipped store comes last"
    with pytest.raises(UsageError, match="did you mean 'foil'"):
        find_material("foill", models)
    monkeypatch.setenv("INSPECT_MODELS", str(models))
    assert find_material("foil").folder == models / "foil"


def test_recipe_of_another_material_in_the_folder_is_refused(models):
    path = models / "foil" / "recipe.yaml"
    path.write_text(path.read_text().replace("material: foil", "material: steel"))
    with pytest.raises(RecipeError, match="material is 'steel', its folder is 'foil'"):
        find_material("foil", models)


def test_material_comes_from_the_folders_own_file(models, tmp_path):
    (tmp_path / "inspect.yaml").write_text("material: foil\n")
    assert choose_material(None, tmp_path, models).name == "foil"
    (tmp_path / "inspect.yaml").write_text("matrial: foil\n")
    with pytest.raises(RecipeError, match="one line"):
        choose_material(None, tmp_path, models)


def test_adopting_copies_the_recipe_into_the_store_that_is_written(models, tmp_path):
    material = adopt(find_material("riblet", models, may_be_new=True), tmp_path / "other")
    assert (tmp_path / "other" / "riblet" / "recipe.yaml").read_bytes()
    assert material.folder == tmp_path / "other" / "riblet"


def test_what_another_run_below_is_writing_is_not_swept(tmp_path):
    """A run folder in another one's: each sweeps its own."""
    inner = tmp_path / "monday" / "parts" / "P1" / ".heatmap.tif.deadbeef.tmp"
    inner.parent.mkdir(parents=True)
    inner.touch()
    (tmp_path / "monday" / ".lock").touch()
    (tmp_path / ".lock").touch()
    outer = tmp_path / "parts" / "P1" / ".mask.png.00c0ffee.tmp"
    outer.parent.mkdir(parents=True)
    outer.touch()
    assert atomic.sweep_leftovers(tmp_path) == 1
    assert (inner.exists(), outer.exists()) == (True, False)
    assert atomic.sweep_leftovers(tmp_path / "monday") == 1


def test_a_copy_of_a_model_beside_it_is_not_taken(models):
    shutil.copytree(models / "foil/cae", models / "foil/backup")
    assert find_bundle(models / "foil").folder.name == "cae"
    (models / "foil/vae").mkdir()
    (models / "foil/vae/manifest.json").write_text("damaged")
    with pytest.raises(ModelError, match=r"vae.*or choose one with --method \(cae, vae\)"):
        find_bundle(models / "foil")
    assert find_bundle(models / "foil", "cae").folder.name == "cae"


def test_leftovers_of_one_file_are_swept_and_no_others(tmp_path):
    for name in (".a.json.0123abcd.tmp", ".a.json.0123abcd.old.tmp", ".b.json.0123abcd.tmp", ".a.json.tmp", "a.json"):
        (tmp_path / name).touch()
    atomic.sweep_leftovers_of(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {
        ".a.json.0123abcd.old.tmp", ".b.json.0123abcd.tmp", ".a.json.tmp", "a.json",
    }  # fmt: skip


def test_a_model_that_comes_with_the_program_is_never_guessed(models, tmp_path, monkeypatch):
    """In a checkout its store is that of the folder, and other materials are trained into it."""
    monkeypatch.delenv("INSPECT_MODELS", raising=False)
    shutil.copytree(models / "foil", models / "toy")
    mark_as_shipped(models / "toy" / "cae")
    assert SHIPPED in (models / "toy/cae/model_card.md").read_text()
    assert choose_material(None, tmp_path, models).name == "foil"
    shutil.rmtree(models / "foil")
    with pytest.raises(UsageError, match=r"which material\?"):
        choose_material(None, tmp_path, models)
    assert known_materials(models)["toy"] == models / "toy"
