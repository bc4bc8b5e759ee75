"""How fast the program is on this machine, beside what else could run the same network."""
