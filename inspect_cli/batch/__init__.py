"""A batch of parts scored into its run folder, from lock to exit code; limits from a scored folder."""
