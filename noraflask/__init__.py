"""noraflask: a self-hosted artifact registry."""

__version__ = "0.1.0"
