"""What a setting is: setting.py how it is declared, setting_types.py what its value may look like, texts.py how texts are read."""

from __future__ import annotations

from noraflask.settings.setting import Setting, live_setting, setting, settings_of
from noraflask.settings.setting_types import (
    Addresses,
    Choice,
    Duration,
    FormatList,
    Listed,
    Off,
    RustLog,
    SettingType,
    Switch,
    Text,
    WholeNumber,
)
from noraflask.settings.texts import Bad

__all__ = [
    "DAY",
    "MIB",
    "TIB",
    "Addresses",
    "Bad",
    "Choice",
    "Duration",
    "FormatList",
    "Listed",
    "Off",
    "RustLog",
    "Setting",
    "SettingType",
    "Switch",
    "Text",
    "WholeNumber",
    "live_setting",
    "setting",
    "settings_of",
]

DAY = 86400
MIB = 1024 * 1024
TIB = MIB * MIB
