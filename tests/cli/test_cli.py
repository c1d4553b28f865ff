"""The command line from outside: exit codes, JSON, words, and virtual phones end to end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from devicelab.cli.output import console
from devicelab.config.base import ROUNDS_MAX
from devicelab.errors import VirtualPhoneError
from devicelab.runner.job import PROTOCOL
from devicelab.runner.packs import ANDROID_ENGINE, find_runner
from devicelab.runner.targets import TARGETS
from devicelab.virtual.desk import VirtualDesk
from tests.cli.command import devicelab, document
from tests.servers import AdbServer

DIGITS = Path(__file__).parents[2] / "configs" / "digits.yaml"
SCHEMA = {
    "serial",
    "identity",
    "name",
    "labels",
    "state",
    "reason",
    "model",
    "manufacturer",
    "android",
    "sdk",
    "abis",
    "ram_mb",
    "free_storage_mb",
    "battery_percent",
    "battery_celsius",
    "thermal_status",
    "soc",
    "cores",
    "transport",
    "ready",
}


@pytest.fixture
def taken_down(own_home: Path) -> Iterator[None]:
    yield
    devicelab("virtual", "down")


class TestWithoutPhones:
    def test_help_names_the_commands(self) -> None:
        said = devicelab("--help").stdout
        for command in ("discover", "virtual", "runs", "doctor"):
            assert command in said

    def test_version_names_all_that_a_report_of_a_defect_should(self) -> None:
        first, *rest = devicelab("--version").stdout.splitlines()
        assert first == f"devicelab {version('devicelab')}"
        told = document("--version")
        assert told["devicelab"] == version("devicelab")
        assert told["protocol"] == PROTOCOL
        assert (told["engine_android"], told["engine_linux"]) == (ANDROID_ENGINE, version("onnxruntime"))
        found = {name: find_runner(target).sha256 for name, target in TARGETS.items()}
        assert told["runners"] == found
        for word in (*found, ANDROID_ENGINE, told["engine_linux"], told["python"]):
            assert word in " ".join(rest)

    def test_json_without_a_command_is_a_usage_error(self) -> None:
        assert "--version" in devicelab("--json", code=2).stderr
        assert "--version" in devicelab("--json", "discover", code=2).stderr

    def test_a_wrong_option_is_a_usage_error(self) -> None:
        assert "--nonsense" in devicelab("discover", "--nonsense", code=2).stderr

    def test_a_tolerance_is_finite(self) -> None:
        for text in ("inf", "nan", "-1"):
            assert "--tolerance" in devicelab("verify", "missing.yaml", "--tolerance", text, code=2).stderr

    def test_no_columns_are_no_width(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("COLUMNS", raising=False)
            usual = console().width
            for text in ("0", "00", ""):
                patch.setenv("COLUMNS", text)
                assert console().width == usual > 0

    def test_a_run_has_no_more_rounds_than_an_experiment_can_say(self) -> None:
        for rounds in (ROUNDS_MAX + 1, 10**23):
            told = devicelab(
                "run-round", str(DIGITS), "--rounds", str(rounds), "--transport", "direct", code=2
            ).stderr
            assert f"more than a run can have, which is {ROUNDS_MAX}" in told

    def test_nothing_found_is_exit_code_3_and_an_empty_list(self) -> None:
        found = document("discover", "--transport", "direct", "--connect", "127.0.0.1:1", code=3)
        [device] = found["devices"]
        assert (device["serial"], device["state"], device["ready"]) == ("127.0.0.1:1", "absent", False)
        assert device["reason"]
        assert set(device) == SCHEMA

    def test_an_error_is_told_in_json_as_well(self) -> None:
        told = document("discover", "--transport", "direct", "--connect", "nonsense:port", code=2)["error"]
        assert told["kind"] == "ConfigError"
        assert told["exit_code"] == 2
        assert "nonsense:port" in told["message"]

    def test_no_adb_server_to_be_had(self, tmp_path: Path) -> None:
        broken = tmp_path / "adb"
        broken.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
        broken.chmod(0o755)
        done = devicelab("discover", "--transport", "server", code=2, ADB=str(broken))
        assert "start-server" in done.stderr

    def test_a_misspelt_selector_names_the_nearest(self) -> None:
        said = devicelab(
            "discover", "--transport", "direct", "--connect", "127.0.0.1:1", "--device", "modle=Pixel", code=2
        ).stderr
        assert "model" in said

    def test_doctor_says_what_to_do(self) -> None:
        told = document("doctor", code=None)
        names = {check["name"] for check in told["checks"]}
        assert {"adb program", "adb server", "direct USB", "adb key", "namespaces", "leases"} <= names
        for check in told["checks"]:
            assert check["status"] == "ok" or check["advice"], check

    def test_doctor_finds_a_key_that_others_may_read(self, own_home: Path) -> None:
        from devicelab.adb.keys import KeyRing

        KeyRing().keys()
        (own_home / ".android" / "adbkey").chmod(0o644)
        told = document("doctor", code=2)
        [check] = [check for check in told["checks"] if check["name"] == "adb key"]
        assert check["status"] == "problem"
        assert "chmod 600" in check["advice"]

    def test_doctor_knows_the_holes_of_an_old_adb(self, tmp_path: Path) -> None:
        old = tmp_path / "adb"
        old.write_text("#!/bin/sh\necho 'Android Debug Bridge version 1.0.41'\necho 'Version 29.0.6-debian'\n")
        old.chmod(0o755)
        told = document("doctor", code=None, ADB=str(old))
        assert any("CVE-" in check["found"] and "33.0.3" in check["advice"] for check in told["checks"])

    def test_a_state_directory_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        told = document("virtual", "up", "--body", "python", "--state-dir", str(tmp_path / "file"), code=2)
        assert str(tmp_path / "file") in told["error"]["message"]

    def test_a_locale_that_cannot_show_everything(self) -> None:
        words = [
            sys.executable,
            "-m",
            "devicelab",
            "discover",
            "--transport",
            "direct",
            "--connect",
            "127.0.0.1:1",
        ]
        for extra in ([], ["--json"]):
            done = subprocess.run(
                [*words, *extra],
                env={**os.environ, "PYTHONIOENCODING": "ascii"},
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 3, done.stderr
            assert b"absent" in done.stdout

    def test_virtual_down_without_phones(self) -> None:
        assert document("virtual", "down") == {"ended": []}

    def test_virtual_fault_lists_what_can_be_done(self) -> None:
        faults = {each["fault"] for each in document("virtual", "fault")["faults"]}
        assert {"kill", "freeze", "thaw", "unplug", "replug", "disk", "link", "reboot", "authorize"} <= faults

    def test_an_unknown_fault_names_the_nearest(self) -> None:
        assert "freeze" in devicelab("virtual", "fault", "pixel-1", "freez", code=2).stderr

    def test_an_unknown_profile_names_the_nearest(self) -> None:
        assert "pixel" in devicelab("virtual", "up", "--profile", "pixle", code=2).stderr


@pytest.mark.usefixtures("taken_down", "image")
class TestWithPhones:
    def test_three_phones_by_both_transports(self, adb_server: AdbServer) -> None:
        up = document(
            "virtual", "up", "--profile", "pixel", "--profile", "phone-2014", "--profile", "phone-32bit"
        )
        addresses = {phone["address"]: phone["serial"] for phone in up["phones"]}
        assert len(addresses) == 3
        for transport in ("direct", "server"):
            found = document(
                "discover", "--transport", transport, ANDROID_ADB_SERVER_PORT=str(adb_server.port)
            )["devices"]
            ours = {device["serial"]: device for device in found if device["serial"] in addresses}
            assert {serial: device["identity"] for serial, device in ours.items()} == addresses
            assert all(device["ready"] and device["transport"] == transport for device in ours.values())
            by_model = {device["model"]: device for device in ours.values()}
            assert by_model["Pixel 9"]["sdk"] == 36
            assert by_model["Pixel 9"]["abis"] == ["arm64-v8a"]
            assert sorted(device["sdk"] for device in ours.values()) == [19, 27, 36]
            assert all(device["abis"] and device["free_storage_mb"] for device in ours.values())
        assert len(document("virtual", "list")["phones"]) == 3
        ended = document("virtual", "down", ANDROID_ADB_SERVER_PORT=str(adb_server.port))["ended"]
        assert len(ended) == 3
        listed = adb_server.adb("devices").stdout.decode()
        assert not any(address in listed for address in addresses)

    def test_an_unauthorized_phone_says_what_to_press(self, own_home: Path) -> None:
        [phone] = document("virtual", "up", "--profile", "unauthorized")["phones"]
        [device] = document("discover", "--transport", "direct", code=3)["devices"]
        assert device["state"] == "unauthorized"
        assert "Allow" in device["reason"]
        finger = VirtualDesk(own_home / "state").find(phone["name"])

        done = threading.Event()

        def press() -> None:
            """Answer whatever is on the screen: that of the first discover may not have gone yet."""
            while not done.wait(0.05):
                with suppress(VirtualPhoneError):  # nothing is
                    finger.authorize("always")

        thread = threading.Thread(target=press)
        thread.start()
        try:
            [device] = document("discover", "--transport", "direct", "--authorize", "20")["devices"]
        finally:
            done.set()
            thread.join()
        assert device["ready"]
        [device] = document("discover", "--transport", "direct")["devices"]
        assert device["ready"]

    def test_faults_show_in_discovery(self) -> None:
        [phone] = document("virtual", "up")["phones"]
        name = phone["name"]
        for fault, state in (
            (("temperature", "46"), "cooling"),
            (("temperature", "30"), "ready"),
            (("battery", "12"), "quarantined"),
            (("battery", "90"), "ready"),
            (("unplug",), "absent"),
            (("replug",), "ready"),
            (("freeze",), "offline"),
            (("thaw",), "ready"),
            (("kill",), "absent"),
            (("start",), "ready"),
        ):
            devicelab("virtual", "fault", name, *fault)
            words = ("discover", "--transport", "direct", "--timeout", "2" if state == "offline" else "20")
            [device] = document(*words, code=0 if state == "ready" else 3)["devices"]
            assert device["state"] == state, fault
            assert bool(device["reason"]) == (state != "ready")

    def test_selectors_choose(self) -> None:
        document("virtual", "up", "--profile", "pixel", "--profile", "phone-2014")
        chosen = document("discover", "--transport", "direct", "--device", "sdk<21")["devices"]
        assert [device["sdk"] for device in chosen] == [19]
        none = devicelab("discover", "--transport", "direct", "--device", "model=Nokia*", code=3)
        assert "Nokia" in none.stderr

    @pytest.mark.parametrize("transport", ["direct", "server"])
    def test_watch_follows_phones_that_go_and_come(self, transport: str, adb_server: AdbServer) -> None:
        [phone] = document("virtual", "up")["phones"]
        words = ["discover", "--watch", "--json", "--transport", transport, "--device", phone["serial"]]
        words += ["--timeout", "60"]  # on a busy machine
        environment = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(adb_server.port)}
        with subprocess.Popen(
            [sys.executable, "-m", "devicelab", *words], stdout=subprocess.PIPE, text=True, env=environment
        ) as watch:
            try:
                events = Events(watch)
                assert events.next(60)["device"]["ready"]
                for out, back in (("kill", "start"), ("unplug", "replug")):
                    devicelab("virtual", "fault", phone["name"], out)
                    assert events.next(30)["event"] == "removed"
                    devicelab("virtual", "fault", phone["name"], back)
                    event = events.next(30)
                    assert event["event"] == "added"
                    while not event["device"]["ready"]:
                        event = events.next(30)
                watch.send_signal(signal.SIGINT)
                assert watch.wait(30) == 130
            finally:
                watch.kill()


class Events:
    """The lines of a watching process, each with a deadline."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line)

    def next(self, seconds: float) -> Any:
        return json.loads(self._lines.get(timeout=seconds))
