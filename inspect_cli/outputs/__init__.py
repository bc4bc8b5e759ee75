"""Files of the run folder: maps, masks, pictures, tables."""
