"""Which tables can be run again. Importing this costs nothing; torch comes with the experiment that is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper.

    Attributes
    ----------
    source
        Paper key and where it stands there.
    about
        What it shows, one line.
    module, name
        Where its :class:`~inspect_cli.reproduce.experiment.Experiment` is.
    methods
        Rows of each data set: methods of the program, or variants of one.
    budget
        Steps or time for one training, where the command line says nothing.
    data
        What ``--data`` must name; empty if the table needs none.
    """

    source: str
    about: str
    module: str
    name: str
    methods: tuple[str, ...]
    budget: str
    data: str = ""


_MVTEC: Final = "a category in the MVTec layout (train/good, test/KIND, ground_truth/KIND), or a folder of such"
#: Families of noise (DIR section VI-B).
FAMILIES: Final = ("opaque", "transparent", "speckle", "distribution", "morphological")

TABLES: Final[dict[str, Table]] = {
    "chess-noise": Table(
        source="IND Table 1",
        about="recall (A), IoU and training time of CAE, VAE and AAE on generated images",
        module="inspect_cli.reproduce.synthetic",
        name="CHESS_NOISE",
        methods=("cae", "vae", "aae"),
        budget="1500steps",
    ),
    "mnist": Table(
        source="CMP Table 5",
        about="areas under ROC and PR of CAE, VAE and AAE, digit 1 against each other digit",
        module="inspect_cli.reproduce.small_images",
        name="MNIST",
        methods=("cae", "vae", "aae"),
        budget="3000steps",
        data="an .npz file with train_1, test and test_label",
    ),
    "cifar10": Table(
        source="CMP Table 6",
        about="areas under ROC and PR of CAE, VAE and AAE, dogs against each other class",
        module="inspect_cli.reproduce.small_images",
        name="CIFAR10",
        methods=("cae", "vae", "aae"),
        budget="10000steps",
        data="a folder or .zip file with train/dog and test/CLASS",
    ),
    "mvtec-auroc": Table(
        source="SSAE Tables 2 to 4, DIR Table I",
        about="areas under ROC of pixels and of images",
        module="inspect_cli.reproduce.localisation",
        name="MVTEC_AUROC",
        methods=("ssae", "ssae-contrast", "ssae-ensemble", "direct"),
        budget="3500steps",
        data=_MVTEC,
    ),
    "mvtec-f1": Table(
        source="MVT section 4",
        about="F1 and area under ROC of images; ni-cae-clean is ni-cae without noise, cae the network of IND Table 2",
        module="inspect_cli.reproduce.recognition",
        name="MVTEC_F1",
        methods=("cae", "kd-cae", "ni-cae", "ni-cae-clean", "cnn"),
        budget="2000steps",
        data=_MVTEC,
    ),
    "noise-ablation": Table(
        source="DIR Figs 8 and 9",
        about="pixel area under ROC of `direct` with one family of noise and undamaged tiles, and with each left out",
        module="inspect_cli.reproduce.ablations",
        name="NOISE",
        methods=("all", *(f"only-{name}" for name in FAMILIES), *(f"no-{name}" for name in FAMILIES)),
        budget="3500steps",
        data=_MVTEC,
    ),
    "activation-ablation": Table(
        source="DIR Fig. 15",
        about="pixel area under ROC of `direct` by the activation of the repaired tile",
        module="inspect_cli.reproduce.ablations",
        name="ACTIVATION",
        methods=("refrelu", "tanh", "none"),
        budget="3500steps",
        data=_MVTEC,
    ),
    "resize": Table(
        source="DIR Fig. 4",
        about="pixel area under ROC of `direct` on images of 256 px and of full size",
        module="inspect_cli.reproduce.ablations",
        name="RESIZE",
        methods=("256px", "full"),
        budget="3500steps",
        data=_MVTEC,
    ),
    "normal-scores": Table(
        source="DIR Fig. 13",
        about="scores of good pixels where `direct` outputs the anomaly, and where it outputs the repaired tile",
        module="inspect_cli.reproduce.normal_scores",
        name="NORMAL_SCORES",
        methods=("anomaly", "reconstruction"),
        budget="3500steps",
        data=_MVTEC,
    ),
}
