"""Whatever reads text from outside, under hundreds of thousands of hostile inputs: `python -m fuzz`, `make fuzz`.

Rule 1: an input is bytes, whoever made it, and the same seed makes the same inputs in the same order.
Rule 2: what an input may come to is said once, in `targets.py`, and measured in one place, `gauge.py`.
Rule 3: what is found once is kept for ever, as an input of `tests/plan/test_fuzz_found.py`.
"""
