"""The command line: one file a command; each parses, calls a stage and prints, with no logic of its own."""
