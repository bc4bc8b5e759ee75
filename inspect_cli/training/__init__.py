"""The training loop, its checkpoints, and the checks on what was learnt. Knows no method by name."""
