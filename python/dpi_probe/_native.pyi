"""The data plane in Rust. Private: use the names that `dpi_probe` exports."""

__version__: str
