"""Hugging Face: models and data sets, whose versions are revisions without an order."""

from __future__ import annotations

import re

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def _is_revision(version: str) -> bool:
    return _REVISION.fullmatch(version) is not None


ECOSYSTEM = Ecosystem(
    id="hf",
    title="Hugging Face",
    aliases=("huggingface",),
    osv=("hugging face",),
    names=Names("repositories have letters, digits and . _ - / alone", re.compile(r"[^a-z0-9._/*-]"), folds_case=True),
    versions=Versions(str.lower, str.lower, is_version=_is_revision),
)
