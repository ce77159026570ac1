"""`python -m kernel` is the command `kernel`."""

from kernel.cli import main

main()
