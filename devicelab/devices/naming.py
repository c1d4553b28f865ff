"""What people call their devices: names, labels and hubs of a lab file, held against who is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from devicelab.devices.device import Device
from devicelab.devices.selectors import parse_selector
from devicelab.errors import ConfigError

if TYPE_CHECKING:  # settings load pydantic, which looking at phones does not need
    from devicelab.config.lab import LabDevice

__all__ = ["recognize"]


def recognize(devices: Sequence[Device], known: Mapping[str, LabDevice]) -> None:
    """Give devices the names, labels and hubs that a lab file has for them.

    Names of devices that are not there wait for them.

    Args:
        devices: All there are.
        known: What is said of devices, by name.

    Raises:
        ConfigError: A name means several devices, or two names mean the same one.
    """
    for name, described in known.items():
        meant = [device for device in devices if _fits(device, described, devices)]
        if len(meant) > 1:
            serials = ", ".join(device.serial for device in meant)
            raise ConfigError(
                f"the lab's device {name!r} fits several: {serials}",
                hint="name it by `identity`, or make its `selector` narrower",
            )
        for device in meant:
            if device.name not in {None, name}:
                raise ConfigError(f"the lab's devices {device.name!r} and {name!r} are both {device.serial}")
            device.name, device.labels, device.hub = name, described.labels, described.hub


def _fits(device: Device, described: LabDevice, devices: Sequence[Device]) -> bool:
    if described.identity is not None:
        return device.identity == described.identity
    if described.serial is not None:
        return described.serial in {device.serial, *device.alternatives}
    assert described.selector is not None  # one of the three is given
    return parse_selector(described.selector, devices).fits(device)
