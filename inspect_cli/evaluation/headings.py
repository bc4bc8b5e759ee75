"""What metrics are called where people read them."""

from __future__ import annotations

from typing import Final

#: Key in ``evaluation.json`` -> heading, in the order of tables.
HEADINGS: Final = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "au_pro": "AU-PRO",
    "image_auroc": "image AUROC",
    "patch_auroc": "patch AUROC",
    "image_f1": "image F1",
    "f1_max": "F1 max",
    "iou": "IoU",
    "recall": "recall",
    "precision": "precision",
    "iou_max": "IoU max",
    "iou_max_score": "at score",
}
