"""Files that appear whole or not at all: model bundles, run folders, locks."""
