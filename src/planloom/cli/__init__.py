"""The command line: reads arguments, calls what is below, prints what came of it."""
