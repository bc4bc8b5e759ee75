"""A material on disk: where it lives, its recipe, its trained networks and what they say of themselves."""
