"""Names of files and folders that this program writes and finds again."""

from __future__ import annotations

from typing import Final

#: Folder below a batch that holds its run folders; it is skipped when the batch is read.
RUN_FOLDER: Final = "inspection"
#: Folder of a run with a folder for each part.
PARTS_FOLDER: Final = "parts"
#: Picture that `inspect augment` writes into RUN_FOLDER beside the patches that it makes.
SAMPLES_PICTURE: Final = "samples.png"
#: The lock of a folder that one process at a time writes.
LOCK: Final = ".lock"
#: The record of a run, there from its start.
RUN_RECORD: Final = "run.json"
#: The record of a part, written last: the part is done.
PART_RECORD: Final = "part.json"
#: The scores of patches, of a part and, all parts together, of a run.
PATCHES: Final = "patches.parquet"
#: The table of a run with a line for each part.
PARTS_TABLE: Final = "parts.csv"
#: The anomaly map of a part, its mask, and, where it has one, its ROI.
HEATMAP: Final = "heatmap.tif"
MASK: Final = "mask.png"
ROI_MASK: Final = "roi.png"
#: The record of a part whose input looks changed, until it is known whether it is.
PART_RECORD_ASIDE: Final = ".part.json.aside"
#: What `inspect evaluate` found on a run.
EVALUATION: Final = "evaluation.json"
#: The same, as a picture: scores of good and of defective patches.
EVALUATION_PICTURE: Final = "evaluation.png"
#: The page that `inspect report` writes.
REPORT: Final = "report.html"
#: The recipe of a material, in its folder of a model store; the folders of its models lie beside it.
RECIPE: Final = "recipe.yaml"
#: What a trained model says of itself, in its folder.
MANIFEST: Final = "manifest.json"
#: Picture of the regions of interest that lies beside a recipe, before there is a model too.
ROI_PREVIEW: Final = "roi_preview.png"
#: The index of a folder of patches.
TILE_INDEX: Final = "index.parquet"
#: What may be left out of a part's folder, and its files. Mask, patches and record are always there.
OUTPUTS: Final = {
    "maps": ("maps/*.tif",),
    "heatmap": (HEATMAP,),
    "pictures": ("maps/*.png", "image.png", "heatmap.png", "overlay.png", "histogram.png"),
}
ALL_OUTPUTS: Final = frozenset(OUTPUTS)
