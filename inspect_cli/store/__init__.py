"""Files that appear whole or not at all, locks, hashes, names, times."""
