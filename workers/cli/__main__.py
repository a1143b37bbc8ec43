"""`python -m workers.cli` is `clearlane`."""

from workers.cli import main

try:
    main(prog_name="clearlane")
finally:
    # An interrupt that met the interpreter in an exec of text (every dataclass is made by one)
    # leaves a mark there, and a program run by `-m` would end by the signal instead of with our
    # exit code. The next exec of text takes the mark away.
    exec("")  # noqa: S102
