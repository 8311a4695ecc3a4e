"""What planloom costs, each number beside what it is compared with: `make bench`, or `python -m benchmarks SUITE`.

Rule 1: a number is a ratio to a reference measured in the same process, in turns with it, on the same disk.
Rule 2: the reference is what one would write by hand and leave in: it is idiomatic, its values really flow, and a
failure in it does not hang it.
Rule 3: nothing is measured whose answer is not looked at: both sides must come to the same result.
Rule 4: a row that is over its budget says so, and why.
"""
