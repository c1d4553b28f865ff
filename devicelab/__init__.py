"""devicelab: train models on the Android phones on your desk.

The public API is flat::

    from devicelab import Lab

    with Lab() as lab:
        for device in lab.discover():
            print(device.serial, device.state)

Names load when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devicelab.deadline import Deadline
    from devicelab.devices.device import Device
    from devicelab.devices.facts import DeviceFacts
    from devicelab.devices.health import Gates
    from devicelab.devices.states import DeviceState
    from devicelab.errors import DevicelabError
    from devicelab.lab import Lab
    from devicelab.runner.remote import RemoteRunner
    from devicelab.virtual.desk import VirtualDesk

__all__ = [
    "Deadline",
    "Device",
    "DeviceFacts",
    "DeviceState",
    "DevicelabError",
    "Gates",
    "Lab",
    "RemoteRunner",
    "VirtualDesk",
]

_HOMES = {
    "Deadline": "devicelab.deadline",
    "Device": "devicelab.devices.device",
    "DeviceFacts": "devicelab.devices.facts",
    "DeviceState": "devicelab.devices.states",
    "DevicelabError": "devicelab.errors",
    "Gates": "devicelab.devices.health",
    "Lab": "devicelab.lab",
    "RemoteRunner": "devicelab.runner.remote",
    "VirtualDesk": "devicelab.virtual.desk",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute is anything
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
