"""``python -m medcore …`` and ``torchrun -m medcore …`` are the command line."""

from medcore.cli import main

main()
