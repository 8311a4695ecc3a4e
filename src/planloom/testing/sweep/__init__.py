"""A plan stopped at every point where it can be stopped, restarted, and compared with itself undisturbed."""
