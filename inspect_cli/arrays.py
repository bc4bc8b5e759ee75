"""Names of the arrays that many rooms hand on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: (height, width), True inside a region of interest or where there is a defect.
Mask = NDArray[np.bool_]
#: (rows, width), scores or residuals of neighbouring rows of a map; NaN where nothing was scored.
Rows = NDArray[np.float32]
#: Numbers for the cells of a reduced map; each use says which axes there are.
Cells = NDArray[np.float32]
