"""The files of one part: maps, mask, pictures, regions, record."""
