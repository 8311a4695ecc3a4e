"""RUNS OVER HTTP: submit, follow, answer, cancel; needs the extra `server`."""
