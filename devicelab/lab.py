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
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, Self

from devicelab.adb.connection import Transport
from devicelab.adb.program import ServerAddress
from devicelab.adb.reconnect import forget
from devicelab.adb.transports import open_transport
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.devices.device import Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.health import Gates
from devicelab.devices.leases import Lease, Leases
from devicelab.devices.quarantine import Quarantine
from devicelab.devices.selectors import select
from devicelab.errors import DeviceNotReadyError
from devicelab.files import state_dir

if TYPE_CHECKING:  # they load pydantic and numpy, which looking at phones does not need
    import numpy as np

    from devicelab.config import Experiment, LabConfig
    from devicelab.rounds.events import Listener
    from devicelab.rounds.recommending import Recommendation
    from devicelab.rounds.running import Deployment, RunReport

    Array = np.ndarray[Any, Any]

__all__ = ["Lab", "take_down"]

_FORGET_SECONDS = 5.0
_START_SECONDS = 15.0  # an adb server that has to be started takes some seconds on a busy machine


class Lab(Closing):
    """The devices on this desk and the state directory.

    Args:
        directory: The state directory; see :func:`devicelab.files.state_dir`.
        transport: ``auto`` takes a running adb server, else starts one if there is an adb program, else reaches
            phones directly.
        addresses: ``host:port`` of phones on TCP to look for, besides this lab's virtual phones and what the
            transport finds by itself.
        gates: The health limits.
        patience: Seconds that one phone may take to answer during discovery.
        authorize: Seconds that somebody has to press "Allow" on a phone that does not know this host (an adb
            server keeps the question open by itself).

    Raises:
        AdbUnavailableError: ``server`` was asked for and there is none.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        transport: Literal["auto", "server", "direct"] = "auto",
        addresses: Sequence[str] = (),
        gates: Gates | None = None,
        patience: float = 5.0,
        authorize: float = 1.0,
    ) -> None:
        self.directory = state_dir(directory)
        self._addresses = tuple(addresses)
        self._transport = open_transport(transport, Deadline("start of the transport", _START_SECONDS))
        self._leases = Leases()
        self.quarantine = Quarantine(self.directory)
        self.gates = gates or Gates()
        self._discovery = Discovery(
            self._transport, self._leases, self.quarantine, self.gates, patience, authorize
        )
        self._devices: list[Device] = []

    @classmethod
    def from_config(cls, config: LabConfig, directory: Path | None = None) -> Self:
        """A lab as its file describes it (:func:`devicelab.config.load_lab`).

        Raises:
            AdbUnavailableError: The file asks for an adb server and there is none.
        """
        return cls(
            directory,
            transport=config.transport,
            addresses=config.addresses,
            gates=Gates.from_config(config.gates),
            patience=config.deadlines.discover,
            authorize=config.deadlines.authorize,
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
        found = _able(self._discovery.look(self.addresses))
        self._devices += found
        return select(found, list(selectors))

    def watch(self, stop: Event, selectors: Iterable[str] = ()) -> Iterator[list[Device]]:
        """The devices that are present, again whenever something may have changed, until ``stop`` is set.

        Unlike :meth:`discover` it is content with a selector that means none at the moment.
        """
        wanted = list(selectors)
        for devices in self._discovery.watch(self.addresses, stop):
            yield select(_able(devices), wanted, allow_none=True)

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
            rounds: How many rounds the run has in all; as the experiment says by default.
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


def _able(devices: list[Device]) -> list[Device]:
    """The same devices, which can run graphs now."""
    for device in devices:
        device.executor = _execute
    return devices


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
