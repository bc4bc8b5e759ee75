"""One part: rows of its maps -> tiles -> engine -> stitched, smoothed, fused map -> regions and verdict."""
