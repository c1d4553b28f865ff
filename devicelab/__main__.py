"""``python -m devicelab``."""

from devicelab.cli import main

main()
