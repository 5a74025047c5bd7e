"""dpi-probe: packets to signed flow records."""
