"""The training loop, its checkpoints, and the checks on what was learnt.

``auto`` and ``suspects`` alone know methods by name.
"""
