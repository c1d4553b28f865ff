from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.errors import ConfigError
from devicelab.virtual.curves import value_at
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.profile import DEFAULT_PROFILE, load_profile, profile_names
from devicelab.virtual.sizes import parse_size
from tests.virtual.wire import Wire


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_that_comes_along_is_sound(name: str) -> None:
    profile = load_profile(name)

    assert profile.name == name
    assert profile.title
    assert profile.properties["ro.build.version.sdk"].isdecimal()
    assert any("\n" in value for value in profile.properties.values())
    assert "$level" in profile.battery.text
    assert "$tenths" in profile.battery.text
    assert profile.cpuinfo.count("processor\t:") == profile.cores
    assert "MemTotal:" in profile.meminfo
    assert not {feature for feature in profile.protocol.features if feature.startswith("abb")}
    sdk = int(profile.properties["ro.build.version.sdk"])
    assert (profile.thermal is not None) == (sdk >= 29)
    assert ("shell_v2" in profile.protocol.features) == (sdk >= 24)


def test_the_phones_that_must_exist() -> None:
    must = {"pixel", "phone-2014", "phone-32bit", "phone-16k", "hot", "full", "unauthorized", DEFAULT_PROFILE}
    assert must <= set(profile_names())


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_profile_of_ones_own_states_only_what_differs(tmp_path: Path) -> None:
    profile = load_profile(
        write(
            tmp_path, "based_on: pixel\ndisk: 2 GiB\nbattery: {level: 7}\nproperties: {ro.x: true, ro.y: 012}\n"
        )
    )
    pixel = load_profile("pixel")

    assert profile.name == "mine"
    assert profile.disk == 2 << 30
    assert profile.battery.level == 7
    assert profile.battery.text == pixel.battery.text
    assert profile.properties["ro.product.model"] == "Pixel 9"
    assert profile.properties["ro.x"] == "true"


def test_a_base_may_be_a_file_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "based_on: hot\ndisk: 5GB\n", "base.yaml")
    assert load_profile(write(tmp_path, "based_on: base.yaml\n")).disk == 5_000_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("based_on: pixle\n", "no profile 'pixle'; did you mean 'pixel'"),
        ("based_on: pixel\nbatery: {level: 3}\n", "unknown key 'batery'; did you mean 'battery'"),
        ("based_on: pixel\nbattery: {levl: 3}\n", "battery: unknown key 'levl'; did you mean 'level'"),
        ("title: nothing else\n", "'properties' is missing"),
        ("based_on: pixel\nbattery: {level: 120}\n", "battery: level is 120, outside 0 … 100"),
        ("based_on: pixel\nbattery: {level: full}\n", "'full' is not a size"),
        ("based_on: pixel\nbattery: 80\n", "expected a mapping, not 80"),
        ("based_on: pixel\nexecutes: arm\n", "'arm' is not 'host' or 'arm64'"),
        ("based_on: pixel\nauthorization: [none]\n", "is not 'none' or 'ask'"),
        ("based_on: pixel\ndisk: lots\n", "'lots' is not a size"),
        ("based_on: pixel\nfree: 900GB\n", "free is"),
        ("based_on: pixel\ncores: true\n", "True is not a whole number"),
        ("based_on: pixel\nboot_seconds: soon\n", "'soon' is not a number"),
        ("based_on: pixel\ntitle: 3\n", "3 is not text"),
        ("based_on: pixel\nproperties: {../x: 1}\n", "'../x' is not a property's name"),
        ("based_on: pixel\nproperties: {ro.x: [1]}\n", "a property is text"),
        ("based_on: pixel\nproperties: 3\n", "expected a mapping"),
        ("based_on: pixel\ncommands: [../sh]\n", "'../sh' is not a command's name"),
        ("based_on: pixel\ncommands: sh\n", "is not a list"),
        ("based_on: pixel\nprotocol: {features: ['a;b']}\n", "a feature's name holds no"),
        ("based_on: pixel\nname: ../pixel\n", "'../pixel' cannot be a phone's name"),
        ("based_on: mine.yaml\n", "goes round in circles"),
        ("based_on: 3\n", "`based_on` is the name or path"),
        ("- pixel\n", "a profile is a mapping, not a list"),
        ("a: [\n", "is not YAML"),
        ("\x00", "is not YAML"),
    ],
)
def test_what_is_wrong_is_said_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_profile(write(tmp_path, text))
    assert message in str(error.value)


def test_a_missing_file_and_a_wrong_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the profile"):
        load_profile(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="did you mean 'phone-16k'") as error:
        load_profile("phone-16")
    assert "phone-2014" in str(error.value.hint)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_size(text) >= 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("300MB", 300_000_000),
        ("1.5 GiB", 3 << 29),
        (" 27gib ", 27 << 30),
        ("4096", 4096),
        ("1kB", 1000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(-100, 100)), min_size=1, max_size=6).map(sorted),
    st.floats(0, 2e6),
)
def test_a_curve_stays_between_its_points(curve: list[tuple[float, float]], seconds: float) -> None:
    value = value_at(curve, seconds)
    values = [point[1] for point in curve]
    assert min(values) - 1e-9 <= value <= max(values) + 1e-9
    assert value_at(curve, curve[-1][0] + 1) == curve[-1][1]


def test_each_phone_shows_its_profile(module_desk: VirtualDesk) -> None:
    profiles = map(load_profile, profile_names())
    names = [item.name for item in profiles if item.authorization == "none" and item.executes == "host"]
    for phone in module_desk.up(names):
        profile = load_profile(phone.profile)
        with Wire(phone.port) as wire:
            assert wire.version == profile.protocol.version
            assert wire.max_payload == profile.protocol.max_payload
            assert wire.features == list(profile.protocol.features)
            assert f"ro.product.model={profile.properties['ro.product.model']};" in wire.banner

            shown = wire.shell("getprop")
            for name, value in profile.properties.items():
                assert f"[{name}]: [{value}]\n" in shown
            assert shown.endswith("]\n")
            assert f"[ro.serialno]: [{phone.serial}]\n" in shown
            assert wire.shell("getprop sys.boot_completed") == "1\n"
            assert wire.shell("getprop ro.none nothing; getprop ro.none") == "nothing\n\n"
            assert wire.shell("cat /proc/cpuinfo") == profile.cpuinfo
            assert wire.shell("cat /proc/meminfo") == profile.meminfo
            assert wire.shell("cat /sys/devices/system/cpu/present") == f"0-{profile.cores - 1}\n"

            battery = wire.shell("dumpsys battery")
            assert f"\n  level: {profile.battery.level}\n" in battery
            assert f"\n  temperature: {round(10 * profile.battery.celsius)}\n" in battery
            assert "$" not in battery
            thermal = wire.shell("dumpsys thermalservice")
            if profile.thermal is None:
                assert thermal == "Can't find service: thermalservice\n"
            else:
                assert f"Thermal Status: {profile.thermal.status}\n" in thermal
                assert "$" not in thermal
            if profile.commands is None:
                assert wire.shell("getconf PAGESIZE; getconf PAGE_SIZE") == f"{profile.page_size}\n" * 2


def test_the_phone_of_2014_has_what_it_had(module_desk: VirtualDesk) -> None:
    phone = module_desk.up(["phone-2014"])[0]
    with Wire(phone.port, version=0x01000001) as wire:
        assert wire.version == 0x01000000
        assert wire.max_payload == 4096
        for command in (
            "sha256sum",
            "toybox",
            "head",
            "setsid",
            "nohup",
            "timeout",
            "stat",
            "getconf",
            "busybox",
        ):
            assert "not found" in wire.shell(f"{command} </dev/null")
        assert wire.shell("df /data") == (
            "Filesystem             Size   Used   Free   Blksize\n"
            "/data                    5G     0K     5G   4096\n"
        )
        assert wire.shell("df -k /none /data/local/tmp").splitlines()[1:] == [
            "-k: No such file or directory",
            "/none: No such file or directory",
            "/data/local/tmp          5G     0K     5G   4096",
        ]
        assert "abilist" not in wire.shell("getprop")
        large = wire.call("shell:cat /system/bin/sh")
        assert len(large) > 100_000  # in packets of 4096 bytes


def test_the_full_phone_is_large_and_full(module_desk: VirtualDesk) -> None:
    phone = module_desk.up(["full"])[0]
    with Wire(phone.port) as wire:
        for command in ("df -k /data", "df /data/local/tmp"):
            source, size, used, free, share, place = wire.shell(command).splitlines()[1].split()
            assert (source, share, place) == ("/dev/block/dm-49", "99%", "/data")
            assert int(free) == -(-300_000_000 // 4096) * 4  # whole pages
            assert int(size) == int(used) + int(free)
            assert int(size) >= 107 << 20
        assert "/data" in wire.shell("df -h /data")


def test_properties_can_be_set_until_the_next_boot(module_desk: VirtualDesk) -> None:
    phone = module_desk.up(["pixel"])[0]
    with Wire(phone.port) as wire:
        assert wire.shell("setprop debug.a 'one two'; getprop debug.a") == "one two\n"
        assert wire.shell("setprop persist.sys.locale xx-YY; getprop persist.sys.locale") == "xx-YY\n"
        shown = wire.shell("getprop").splitlines()
        assert "[debug.a]: [one two]" in shown
        assert [line for line in shown if line.startswith("[persist.sys.locale]")] == [
            "[persist.sys.locale]: [xx-YY]"
        ]
        names = [line.partition("]")[0] for line in shown if line.startswith("[")]
        assert names == sorted(names)
        assert "Failed to set property 'ro.product.model'" in wire.shell("setprop ro.product.model Nokia")
        for bad in ("../x", ".x", "a..b", "a/b", "''", "'a b'"):
            assert "Failed to set property" in wire.shell(f"setprop {bad} 1")
    phone.kill()
    phone.start()
    with Wire(phone.port) as wire:
        assert wire.shell("getprop debug.a; getprop persist.sys.locale") == "\nen-GB\n"


def test_a_phone_takes_its_time_to_boot(module_desk: VirtualDesk, tmp_path: Path) -> None:
    slow = write(tmp_path, "based_on: pixel\nboot_seconds: 600\n", "slow.yaml")
    phone = module_desk.up([slow])[0]
    with Wire(phone.port) as wire:
        assert wire.shell("getprop sys.boot_completed; getprop dev.bootcomplete") == "\n\n"


@pytest.mark.parametrize("text", ["a: 2024-13-45", f"a: {'9' * 6000}", "[" * 3000, "x" * 300_000])
def test_a_file_that_yaml_chokes_on_is_a_config_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_profile(str(path))


def test_a_pipe_is_no_profile(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="no regular file"):
        load_profile(str(tmp_path / "pipe.yaml"))
