"""The lab in a few lines of Python: everything that the command line does with devices.

::

    with Lab() as lab:
        for device in lab.discover(["sdk>=29"]):
            print(device.serial, device.state, device.facts.model)
            print(device.shell("uname", "-m").stdout)
            print(lab.run(device, Path("model.onnx"), {"x": x}))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from devicelab.adb.connection import Transport
from devicelab.adb.program import ServerAddress
from devicelab.adb.reconnect import forget
from devicelab.adb.transports import open_transport
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.devices.device import Deadlines, Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.health import Gates
from devicelab.devices.leases import Lease, Leases
from devicelab.devices.naming import recognize
from devicelab.devices.quarantine import Quarantine
from devicelab.devices.selectors import select
from devicelab.errors import DeviceNotReadyError
from devicelab.files import state_dir

if TYPE_CHECKING:  # they load pydantic and numpy, which looking at phones does not need
    import numpy as np

    from devicelab.config import Experiment, LabConfig
    from devicelab.rounds.events import Listener
    from devicelab.rounds.lanes import Lanes
    from devicelab.rounds.recommending import Recommendation
    from devicelab.rounds.running import Deployment, RunReport

    Array = np.ndarray[Any, Any]

__all__ = ["LAB_FILE", "Lab", "take_down"]

LAB_FILE: Final = "lab.yaml"
"""A lab file's name in its state directory."""

TransportChoice = Literal["auto", "server", "direct"]

_PATIENCE = 5.0
_AUTHORIZE = 1.0
_FORGET_SECONDS = 5.0
_START_SECONDS = 15.0  # an adb server that has to be started takes some seconds on a busy machine


class Lab(Closing):
    """The devices on this desk and the state directory.

    Args:
        directory: The state directory; see :func:`devicelab.files.state_dir`.
        config: What is known of the devices on this desk (:func:`devicelab.config.load_lab`); what is said
            besides it goes before it.
        transport: ``auto`` takes a running adb server, else starts one if there is an adb program, else reaches
            phones directly; ``auto`` by default.
        addresses: ``host:port`` of phones on TCP to look for, besides this lab's virtual phones and what the
            transport finds by itself.
        gates: The health limits.
        strict: Whether what a phone does not tell counts against it, whatever else the gates say.
        patience: Seconds that one phone may take to answer during discovery; 5 by default.
        authorize: Seconds that somebody has to press "Allow" on a phone that does not know this host (an adb
            server keeps the question open by itself); 1 by default.

    Raises:
        AdbUnavailableError: ``server`` was asked for and there is none.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        config: LabConfig | None = None,
        transport: TransportChoice | None = None,
        addresses: Sequence[str] = (),
        gates: Gates | None = None,
        strict: bool = False,
        patience: float | None = None,
        authorize: float | None = None,
    ) -> None:
        self.directory = state_dir(directory)
        self._config = config
        limits = config.deadlines if config is not None else None
        if limits is not None:
            patience = limits.discover if patience is None else patience
            authorize = limits.authorize if authorize is None else authorize
        self._deadlines = Deadlines(limits.command, limits.push, limits.pull) if limits else Deadlines()
        self._addresses = (*(config.addresses if config is not None else ()), *addresses)
        chosen: TransportChoice = transport or (config.transport if config is not None else "auto")
        self._transport = open_transport(chosen, Deadline("start of the transport", _START_SECONDS))
        self._leases = Leases()
        self.quarantine = Quarantine(self.directory)
        if gates is None:
            gates = Gates.from_config(config.gates) if config is not None else Gates()
        self.gates = replace(gates, strict=gates.strict or strict)
        self._discovery = Discovery(
            self._transport,
            self._leases,
            self.quarantine,
            self.gates,
            _PATIENCE if patience is None else patience,
            _AUTHORIZE if authorize is None else authorize,
        )
        self._devices: list[Device] = []

    @classmethod
    def open(
        cls,
        directory: Path | None = None,
        *,
        file: Path | None = None,
        transport: TransportChoice | None = None,
        addresses: Sequence[str] = (),
        strict: bool = False,
        patience: float | None = None,
        authorize: float | None = None,
    ) -> Self:
        """A lab as its file describes it.

        Args:
            directory: The state directory.
            file: The lab file; by default ``lab.yaml`` in the state directory, if there is one.
            transport: As for :class:`Lab`; goes before the file, as all that follows.
            addresses: As for :class:`Lab`; besides those in the file.
            strict: As for :class:`Lab`.
            patience: As for :class:`Lab`.
            authorize: As for :class:`Lab`.

        Raises:
            ConfigError: The file cannot be read, or something in it is wrong.
            AdbUnavailableError: An adb server was asked for and there is none.
        """
        found = file or state_dir(directory) / LAB_FILE
        config = None
        if file is not None or found.exists():
            from devicelab.config import load_lab  # noqa: PLC0415 - loads pydantic

            config = load_lab(found)
        return cls(
            directory,
            config=config,
            transport=transport,
            addresses=addresses,
            strict=strict,
            patience=patience,
            authorize=authorize,
        )

    @property
    def transport(self) -> Transport:
        """How phones are reached."""
        return self._transport

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where phones on TCP are looked for: those asked for, and this lab's virtual phones."""
        return tuple(dict.fromkeys((*self._addresses, *_virtual_addresses(self.directory))))

    def discover(self, selectors: Iterable[str] = ()) -> list[Device]:
        """Look at all devices now.

        Args:
            selectors: Which ones; see :mod:`devicelab.devices.selectors`. None: all.

        Raises:
            NoDeviceError: There are devices, but none is meant by a selector.
            ConfigError: A selector makes no sense.
        """
        found = self._known(self._discovery.look(self.addresses))
        self._devices += found
        return select(found, list(selectors))

    def watch(self, stop: Event, selectors: Iterable[str] = ()) -> Iterator[list[Device]]:
        """The devices that are present, again whenever something may have changed, until ``stop`` is set.

        Unlike :meth:`discover` it is content with a selector that means none at the moment.
        """
        wanted = list(selectors)
        for devices in self._discovery.watch(self.addresses, stop):
            yield select(self._known(devices), wanted, allow_none=True)

    def lanes(self) -> Lanes:
        """Turns for what is large: so many devices at a time on each USB hub, as the lab file says."""
        from devicelab.rounds.lanes import Lanes, usb_hubs  # noqa: PLC0415 - looking at phones needs none of it

        by_kernel = usb_hubs()

        def hub_of(serial: str) -> str | None:
            named = {device.serial: device.hub for device in self._devices}
            return named.get(serial) or by_kernel.get(serial)

        if self._config is None:
            return Lanes(hub_of)
        return Lanes(hub_of, per_hub=self._config.pushes, limits=self._config.hubs)

    def _known(self, devices: list[Device]) -> list[Device]:
        """The same devices, with all that this lab knows of them."""
        for device in devices:
            device.executor = _execute
            device.deadlines = self._deadlines
        if self._config is not None:
            recognize(devices, self._config.devices)
        return devices

    def run(
        self,
        device: Device,
        graph: Path | bytes,
        inputs: Mapping[str, Array],
        **options: Any,  # noqa: ANN401 - those of RemoteRunner
    ) -> dict[str, Array]:
        """Run an ONNX graph on a device once, while nobody else uses it.

        Args:
            device: Which one; must be ready.
            graph: The ONNX file, or its content.
            inputs: A value for every input of the graph, by name.
            options: ``engine``, ``threads``, ``seconds``, ``max_bytes``; see
                :class:`devicelab.runner.remote.RemoteRunner`, which is faster for many runs.

        Returns:
            Every output by name.

        Raises:
            DeviceNotReadyError: It is not ready, or nothing that this host has runs on it.
            DeviceBusyError: Somebody has it, this lab included: then use ``device.run``.
            RunnerError: The runner says no, and why.
            ConfigError, DeviceError, DeadlineError: See :class:`devicelab.runner.remote.RemoteRunner`.
        """
        device.require_ready()
        with self.lease(device, "run"):
            return _execute(device, graph, inputs, **options)

    def lease(self, device: Device, purpose: str, *, wait: Deadline | None = None) -> Lease:
        """Take a device, so that nobody else on this host does; kept alive until released or the lab is closed.

        Args:
            device: Which one.
            purpose: What for, in a word or two, shown to others.
            wait: How long to wait if somebody has it; not at all by default.

        Raises:
            DeviceBusyError: Somebody has it; says who and until when.
            DeviceNotReadyError: It has never answered, so nobody knows which phone it is.
        """
        if device.identity is None:
            raise DeviceNotReadyError(f"is {device.state}", device=device.serial, hint=device.reason or None)
        return self._leases.acquire(device.identity, purpose, device=device.serial, wait=wait)

    def push_plan(
        self,
        experiment: Experiment | Path,
        *,
        devices: Sequence[str] = (),
        engine: Path | None = None,
        listener: Listener | None = None,
    ) -> Deployment:
        """Have an experiment's plan, runner, engine and shards on the devices.

        What is raised: :func:`devicelab.rounds.running.push_plan`.

        Args:
            experiment: An experiment, or its file.
            devices: Selectors of the devices that are meant, besides the experiment's own.
            engine: The engine to push instead of the published one.
            listener: Hears what happens (:mod:`devicelab.rounds.events`).
        """
        from devicelab.rounds.events import silent  # noqa: PLC0415 - looking at phones needs none of it
        from devicelab.rounds.running import Options, push_plan  # noqa: PLC0415

        loaded, _ = _experiment(experiment)
        return push_plan(self, loaded, Options(devices, engine), listener or silent)

    def run_round(
        self,
        experiment: Experiment | Path,
        *,
        rounds: int | None = None,
        resume: bool = False,
        run: str | None = None,
        devices: Sequence[str] = (),
        engine: Path | None = None,
        listener: Listener | None = None,
    ) -> RunReport:
        """Run an experiment's rounds, or go on with a run.

        What is raised: :func:`devicelab.rounds.running.run_rounds`.

        Args:
            experiment: An experiment, or its file.
            rounds: How many rounds the run has in all. By default as the experiment says, and for a run to go
                on with as was asked last.
            resume: Whether to go on with a run instead of beginning one.
            run: Which run to go on with; the experiment's newest by default.
            devices: Selectors of the devices that are meant, besides the experiment's own.
            engine: The engine to push instead of the published one.
            listener: Hears what happens (:mod:`devicelab.rounds.events`).
        """
        from devicelab.rounds.events import silent  # noqa: PLC0415 - looking at phones needs none of it
        from devicelab.rounds.running import Options, run_rounds  # noqa: PLC0415

        loaded, text = _experiment(experiment)
        return run_rounds(
            self,
            self.directory,
            loaded,
            text=text,
            rounds=rounds,
            resume=resume,
            run=run,
            options=Options(devices, engine),
            listener=listener or silent,
        )

    def recommend(
        self,
        experiment: Experiment | Path,
        client: str,
        *,
        top: int = 10,
        run: str | None = None,
        devices: Sequence[str] = (),
        engine: Path | None = None,
    ) -> Recommendation:
        """Ask the phone that holds a client's data what it recommends to it.

        What is raised: :func:`devicelab.rounds.recommending.recommend`.

        Args:
            experiment: An experiment, or its file.
            client: Whom to ask for.
            top: How many items.
            run: Whose model; the experiment's newest by default.
            devices: Selectors of the devices that are meant, besides the experiment's own.
            engine: The engine to push instead of the published one.
        """
        from devicelab.rounds.recommending import recommend  # noqa: PLC0415 - as above
        from devicelab.rounds.running import Options  # noqa: PLC0415

        loaded, _ = _experiment(experiment)
        options = Options(devices, engine)
        return recommend(self, self.directory, loaded, client, top=top, run=run, options=options)

    def close(self) -> None:
        """Give leases back and let go of all wires; may be called twice."""
        devices, self._devices = self._devices, []
        for device in devices:
            device.close()
        self._transport.close()
        self._leases.close()


def _execute(
    device: Device,
    graph: Path | bytes,
    inputs: Mapping[str, Array],
    **options: Any,  # noqa: ANN401 - as above
) -> dict[str, Array]:
    from devicelab.runner.remote import run_on  # noqa: PLC0415 - for those who run something

    return run_on(device, graph, inputs, **options)


def _experiment(given: Experiment | Path) -> tuple[Experiment, str | None]:
    """An experiment, and its file's text if it has one."""
    if not isinstance(given, Path):
        return given, None
    from devicelab.config import load_experiment  # noqa: PLC0415 - loads pydantic

    loaded = load_experiment(given)
    return loaded, given.expanduser().read_text(encoding="utf-8-sig")


def _virtual_addresses(directory: Path) -> list[str]:
    if not (directory / "virtual").is_dir():
        return []  # most labs have none, and need not load what runs them
    from devicelab.virtual.desk import VirtualDesk  # noqa: PLC0415

    return VirtualDesk(directory).addresses()


def take_down(directory: Path | None = None, names: Sequence[str] | None = None) -> list[str]:
    """End virtual phones, remove all they kept, and make a running adb server forget them.

    Args:
        directory: The state directory; see :func:`devicelab.files.state_dir`.
        names: Which ones; all by default.

    Returns:
        The names of those that were ended.

    Raises:
        ConfigError: A name is unknown.
    """
    from devicelab.virtual.desk import VirtualDesk  # noqa: PLC0415

    desk = VirtualDesk(state_dir(directory))
    before = desk.list()
    ended = desk.down(names or None)
    deadline = Deadline("goodbye to the adb server", _FORGET_SECONDS)
    server = ServerAddress.from_environment()
    for phone in before:
        if phone.name in ended:
            forget(server, phone.address, deadline)
    return ended
