"""One file a subcommand: parse, call one function, print. Heavy imports stand inside the functions."""
