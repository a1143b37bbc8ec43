"""`python -m workers.cli` is `clearlane`."""

from workers.cli import main

main(prog_name="clearlane")
