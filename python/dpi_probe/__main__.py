"""`python -m dpi_probe` is `dpi-probe`."""

from dpi_probe.cli import main

main()
