"""The demo: one call from nothing to a Label Studio that shows photos with labelled masks."""

from backend.demo.start import DEFAULT_LABELS, DemoOptions, run

__all__ = ["DEFAULT_LABELS", "DemoOptions", "run"]
