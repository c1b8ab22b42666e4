"""The command line `smile-pipe`: a command parses its options, calls a stage and prints the result."""
