"""Terraform: addresses of providers and modules."""

from __future__ import annotations

import re
from functools import partial

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import semver_floor, semver_key

ECOSYSTEM = Ecosystem(
    id="terraform",
    title="Terraform",
    variable="TF",
    osv=("terraform",),
    names=Names("addresses have letters, digits and . _ - / alone", re.compile(r"[^a-z0-9._/*-]"), folds_case=True),
    versions=Versions(
        key=partial(semver_key, least=1),
        language=Language("~> 1.2.0, != 1.2.3", ORDER | {"~>"}, semver_floor, raises_last_but_one=True, open_when_alone=True),
    ),
)
