"""Any ONNX graph, run on a device as if it were a function of numpy arrays.

::

    runner = RemoteRunner(device)
    outputs = runner.run(Path("model.onnx"), {"x": np.zeros((1, 3, 224, 224), np.float32)})

The graph stays in the device's cache for the next time; inputs and outputs are removed at once.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from devicelab.devices.device import Device
from devicelab.errors import ConfigError, DevicelabError, RunnerError
from devicelab.fetching import Progress
from devicelab.runner.cache import Blob, DeviceCache
from devicelab.runner.installation import install, pack_for
from devicelab.runner.job import Job
from devicelab.runner.layout import cached
from devicelab.runner.session import JobSession, Patience
from devicelab.runner.transcript import Listener

if TYPE_CHECKING:  # loaded when something is run
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["RemoteRunner", "run_on"]

_INPUTS: Final = "inputs.safetensors"
_LIMIT: Final = 1 << 30  # bytes of outputs
_KINDS: Final = "bfiu"  # numpy's letters for truth values, floats and integers


class RemoteRunner:
    """Runner and engine on one device, ready for any number of graphs.

    Args:
        device: The device, leased by the caller where others may use it, too.
        engine: Another engine than the published one: ``libonnxruntime.so`` or an AAR.
        progress: Told what is being fetched, if something is.

    Raises:
        ConfigError: Runner or engine cannot be had on this host.
        DeviceNotReadyError: They do not fit the device.
        DeviceError: They cannot be pushed.
    """

    def __init__(self, device: Device, *, engine: Path | None = None, progress: Progress | None = None) -> None:
        self.device = device
        self._cache = DeviceCache(device)
        self._installation = install(device, self._cache, pack_for(device, engine=engine, progress=progress))

    def run(
        self,
        graph: Path | bytes,
        inputs: Mapping[str, Array],
        *,
        stored: Sequence[Blob | str] = (),
        threads: int = 1,
        seconds: float = 600.0,
        max_bytes: int = _LIMIT,
        on_message: Listener | None = None,
    ) -> dict[str, Array]:
        """Run a graph once.

        Args:
            graph: The ONNX file, or its content.
            inputs: A value for every input of the graph, by name; those that are stored may be missing.
            stored: Up to three files of further inputs that stay on the device: what is to be in its cache, or
                paths as a job names them.
            threads: For one operator.
            seconds: For running it, engine start included; not for the transfers.
            max_bytes: Outputs that take more are refused.
            on_message: Told the runner's hello and its progress.

        Returns:
            Every output by name.

        Raises:
            ConfigError: An input is of a type that no runner knows, or the graph's file cannot be read.
            RunnerError: The runner says no, and why: ``input``, ``engine``, ``memory``, …
            DeviceError: The device cannot store what is pushed, or went away.
            DeadlineError: It took too long; it was ended.
        """
        content = _packed(inputs)
        blobs = [Blob.of(graph), *(each for each in stored if isinstance(each, Blob))]
        self._cache.ensure(blobs)
        name = f"run-{secrets.token_hex(8)}"
        files = [cached(each.sha256) if isinstance(each, Blob) else each for each in stored]
        job = Job(
            job=name,
            verb="run",
            plan=cached(blobs[0].sha256),
            inputs=(_INPUTS, *files) if files else _INPUTS,
            threads=threads,
        )
        session = JobSession(self.device, job, self._installation, uses=[blob.sha256 for blob in blobs])
        try:
            session.prepare()
            self.device.push(content, f"{session.directory}/{_INPUTS}")
            result = session.run(patience=Patience(total=seconds, idle=seconds), on_message=on_message)
            with tempfile.TemporaryDirectory(prefix="devicelab-run.") as directory:
                local = Path(directory) / "outputs"
                session.collect(result, local, max_bytes=max_bytes)
                outputs = self._unpacked(local)
        except BaseException:
            with contextlib.suppress(DevicelabError):  # whatever went wrong is the better error
                session.remove()
            raise
        self.device.remove(session.directory, recursive=True)
        return outputs

    def _unpacked(self, path: Path) -> dict[str, Array]:
        from safetensors import SafetensorError  # noqa: PLC0415 - with numpy, for those who run something
        from safetensors.numpy import load_file  # noqa: PLC0415

        try:
            found: dict[str, Array] = load_file(path)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunnerError(
                f"the outputs cannot be read: {error!r:.200}", device=self.device.serial, code="damaged"
            ) from error
        return found


def run_on(
    device: Device,
    graph: Path | bytes,
    inputs: Mapping[str, Array],
    *,
    engine: Path | None = None,
    **options: Any,  # noqa: ANN401 - those of RemoteRunner.run
) -> dict[str, Array]:
    """Run a graph once on a device: :class:`RemoteRunner` for those who have only one.

    Args:
        device: The device.
        graph: The ONNX file, or its content.
        inputs: A value for every input of the graph, by name.
        engine: As for :class:`RemoteRunner`.
        options: As for :meth:`RemoteRunner.run`.

    Returns:
        Every output by name.
    """
    return RemoteRunner(device, engine=engine).run(graph, inputs, **options)


def _packed(inputs: Mapping[str, Array]) -> bytes:
    """The inputs as a safetensors file."""
    import numpy as np  # noqa: PLC0415 - for those who run something
    from safetensors.numpy import save  # noqa: PLC0415

    arrays = {}
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
            raise ConfigError(f"input {name!r} is of the type {array.dtype}, which no runner knows")
        arrays[name] = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return save(arrays)
