from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from devicelab.config import Experiment, explain, load_experiment, load_lab
from devicelab.config.base import format_duration, parse_duration
from devicelab.config.data import CsvData, DigitsData, DirichletPartition, MovieLensData, NaturalPartition
from devicelab.config.plan import ClassPlan, FilePlan
from devicelab.config.training import ClientSample, FedAdam, FedAvg, Krum
from devicelab.errors import ConfigError

MINIMAL = """\
name: digits
plan: {class: devicelab.plans.zoo:MLP}
data:
  source: digits
  partition: {by: iid, clients: 10}
round: {rounds: 3}
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def inner(text: str) -> Path:
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return path

    return inner


def test_a_minimal_experiment_has_all_defaults(write: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write(MINIMAL))
    assert experiment.name == "digits"
    assert isinstance(experiment.plan, ClassPlan)
    assert experiment.plan.class_path == "devicelab.plans.zoo:MLP"
    assert isinstance(experiment.data, DigitsData)
    assert experiment.round.local_epochs == 1
    assert experiment.round.clients.size(10) == 10
    assert experiment.aggregation == FedAvg()
    assert experiment.combine == "sum"
    assert not experiment.round.subtables
    assert experiment.clients == 10
    assert experiment.evaluates_on == ()
    assert experiment.directory == tmp_path


FULL = """\
name: full
seed: 12
plan:
  class: mine.plans:Outer.Inner
  args: {width: 3, optimizer: {class: "devicelab.plans.optimizers:SGD", args: {lr: 1e-2}}, note: "on"}
data:
  source: csv
  path: data/train.csv
  test_path: /elsewhere/test.csv
  delimiter: ";"
  tensors:
    x: {columns: [a, "pixel_*"]}
    label: {columns: kind, dtype: category}
  partition: {by: natural, key: owner, min_examples: 3}
  held_out: {last: 2, validation: 1}
  test: 0.25
round:
  rounds: 4
  clients: {number: 7}
  steps: 9
  hyper: {lr: 0.5, mu: 1}
  deadline: 2m
  idle: 1500ms
  clip_norm: 3
aggregation:
  rule: krum
  byzantine: 2
  keep: 5
  server: {optimizer: fedadam, lr: 0.5}
evaluation: {every: 2, on: [host, devices]}
devices: ["sdk>=29", emulator-*]
"""

FILES = """\
name: files
plan: {file: step.pt, evaluation: eval.pt, roles: roles.yaml, parameters: ~/init.safetensors}
data: {source: movielens, held_out: {fraction: 0.5}}
round: {rounds: 1, clients: all, epochs: 2}
"""


def test_a_full_experiment(write: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write(FULL))
    data = experiment.data
    assert isinstance(data, CsvData)
    assert data.path == tmp_path / "data/train.csv"
    assert data.test_path == Path("/elsewhere/test.csv")
    assert data.tensors["x"].columns == ("a", "pixel_*")
    assert experiment.round.deadline == 120
    assert experiment.round.idle == 1.5
    assert experiment.round.hyper == {"lr": 0.5, "mu": 1.0}
    assert experiment.round.clients == ClientSample(number=7)
    assert experiment.round.local_epochs is None
    assert isinstance(experiment.aggregation, Krum)
    assert experiment.aggregation.server == FedAdam(optimizer="fedadam", lr=0.5)
    assert experiment.combine == "each"
    assert experiment.evaluates_on == ("host", "devices")
    assert experiment.clients is None


def test_plan_files(write: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write(FILES))
    assert isinstance(experiment.plan, FilePlan)
    assert experiment.plan.file == tmp_path / "step.pt"
    assert experiment.plan.parameters == Path("~/init.safetensors").expanduser()
    assert isinstance(experiment.data, MovieLensData)
    assert experiment.data.partition == NaturalPartition(by="natural")
    assert experiment.evaluates_on == ("devices",)


@pytest.mark.parametrize("text", [MINIMAL, FULL, FILES])
def test_the_explanation_is_a_file_that_means_the_same(text: str, write: Write) -> None:
    experiment = load_experiment(write(text))
    explained = explain(experiment)
    assert load_experiment(write(explained)) == experiment
    assert explain(load_experiment(write(explained))) == explained
    assert max(map(len, explained.splitlines())) < 140


def test_every_field_of_every_section_is_explained(write: Write) -> None:
    explained = explain(load_experiment(write(MINIMAL))).splitlines()
    for n, line in enumerate(explained):
        if not line.strip().startswith("#"):
            assert "#" in line or explained[n - 1].strip().startswith("#"), line
    text = "\n".join(explained)
    for key in ("seed", "batch_size", "quorum", "weight", "optimizer", "every", "held_out", "args", "devices"):
        assert f"{key}:" in text


ERRORS = """\
name: "bad name"
seed: -1
plan: {clas: x}
data:
  source: digit
round:
  round: 5
  hyper: {lr: x}
  deadline: 5 parsecs
  shuffle: yes
  clients: {number: 3, fraction: 0.5}
aggregation:
  rule: krum
  keep: 3.5
  server: {optimizer: adam}
evaluation:
  on: [device, host]
devises: []
"""


def test_all_errors_are_listed_with_lines_and_suggestions(write: Write) -> None:
    path = write(ERRORS)
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} has 14 errors:"
    assert [line.strip().split(": ")[:2] for line in lines[1:]] == [
        ["line 1", "name"],
        ["line 2", "seed"],
        ["line 3", "plan"],
        ["line 5", "data.source"],
        ["line 6", "round.rounds"],
        ["line 7", "round.round"],
        ["line 8", "round.hyper.lr"],
        ["line 9", "round.deadline"],
        ["line 10", "round.shuffle"],
        ["line 11", "round.clients"],
        ["line 14", "aggregation.keep"],
        ["line 15", "aggregation.server.optimizer"],
        ["line 17", "evaluation.on[0]"],
        ["line 18", "devises"],
    ]
    text = str(caught.value)
    assert "line 3: plan: needs one of the keys `class`, `file`" in text
    assert "data.source: 'digit' is none of digits, movielens" in text
    assert "did you mean 'digits'?" in text
    assert "unknown key; did you mean 'rounds'?" in text
    assert "unknown key; did you mean 'devices'?" in text
    assert "did you mean 'fedadam'?" in text
    assert "not 'yes'" in text
    assert "1h 30m" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("round: {rounds: 3, epochs: 1, steps: 2}", "line 6: round.steps: give `epochs` or `steps`, not both"),
        ("round: {rounds: 3, hyper: {seed: 3}}", "round.hyper.seed: seeds come from the experiment's `seed`"),
        ("round: {rounds: 3, idle: 5m, deadline: 1m}", "round.idle: longer than the `deadline`"),
        ("round: {rounds: 3, clients: {}}", "exactly one of `number`, `fraction` and `probability`"),
        ("round: {rounds: 3, clients: {number: 11}}", "round.clients.number: there are only 10 clients"),
        ("round: {rounds: 0}", "round.rounds: should be greater than or equal to 1, not 0"),
        (f"round: {{rounds: {'9' * 40}}}", "line 6: round.rounds: should be less than or equal to 1000000"),
        ("round: {rounds: 3, batch_size: 99999999999999999999}", "line 6: round.batch_size: should be less"),
        ("round: {rounds: 3, epochs: 4611686018427387904}", "line 6: round.epochs: should be less"),
        (
            "round: {rounds: 3, steps: 281474976710656}",
            "line 6: round.steps: should be less than 281474976710656",
        ),
        ("round: {rounds: 3, clip_norm: 1.0e+300}", "line 6: round.clip_norm: should be less"),
        (
            "round: {rounds: 3, clients: {probability: 1.0e-320}}",
            "round.clients.probability: should be greater",
        ),
        ("round: {rounds: 3}\nevaluation: {batch_size: 2147483648}", "evaluation.batch_size: should be less"),
        ("round: {rounds: true}", "round.rounds: should be a valid integer, not True"),
        ("round: {rounds: '3'}", "round.rounds: should be a valid integer, not '3'"),
        ("round: {rounds: 3, hyper: {lr: .inf}}", "round.hyper.lr: should be a valid number"),
        ("round: [1]", "line 6: round: should be"),
        (
            "round: {rounds: 3, combine: sum}\naggregation: {rule: median}",
            "round.combine: the rule median needs each client's delta",
        ),
        ("round: {rounds: 3}\naggregation: {rule: trimmed_mean, fraction: 0.5}", "should be less than 0.5"),
        ("round: {rounds: 3}\naggregation: {rule: median, weight: uniform}", "weight: unknown key"),
        ("round: {rounds: 3}\naggregation: {trim: 0.1}", "aggregation.trim: unknown key"),
        (
            "round: {rounds: 3, clients: {number: 4}}\naggregation: {rule: krum}",
            "aggregation.byzantine: 1 liars need a cohort of 5 clients, not 4",
        ),
        ("round: {rounds: 3}\naggregation: {rule: krum, keep: 11}", "aggregation.keep: more than"),
        ("round: {rounds: 3}\nevaluation: {on: [devices]}", "line 7: evaluation.on: devices have nothing"),
        ("round: {rounds: 3}\nevaluation: {split: validation}", "evaluation.split: nothing is kept for it"),
        ("round: {rounds: 3}\nevaluation: {on: [host]}", "evaluation.on: the host has nothing"),
        ("round: {rounds: 3}\nround: {rounds: 4}", "line 7: the key 'round' is there twice"),
        (
            "round: {rounds: 3, subtables: true, state: keep}",
            "line 6: round.subtables: not with `state: keep`",
        ),
        (
            "round: {rounds: 3, subtables: true}\naggregation: {rule: median}",
            "round.subtables: the rule median compares whole tables; only fedavg can do",
        ),
        (
            "round: {rounds: 3, subtables: true}\naggregation: {rule: krum}",
            "round.subtables: the rule krum compares whole tables",
        ),
        ("round: {rounds: 3, subtables: item}", "round.subtables: should be a valid boolean, not 'item'"),
        ("", "round: is missing"),
    ],
)
def test_one_error_is_one_line(change: str, message: str, write: Write) -> None:
    path = write(MINIMAL.replace("round: {rounds: 3}", change))
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{path}: line ")


PRIVATE = """\
name: digits
plan: {class: devicelab.plans.zoo:MLP}
data:
  source: digits
  partition: {by: iid, clients: 10}
round: {rounds: 3, clip_norm: 0.5, clients: {probability: 0.3}}
aggregation: {weight: uniform, privacy: {noise_multiplier: 1.1}}
"""


def test_a_private_experiment(write: Write) -> None:
    experiment = load_experiment(write(PRIVATE))
    assert experiment.privacy is not None
    assert (experiment.privacy.noise_multiplier, experiment.privacy.delta) == (1.1, 1e-5)
    assert (experiment.round.clients.chance, experiment.round.clients.size(943)) == (0.3, 283)
    assert "noise_multiplier: 1.1" in explain(experiment)
    everybody = load_experiment(write(PRIVATE.replace("{probability: 0.3}", "all")))
    assert everybody.round.clients.chance == 1.0
    assert load_experiment(write(MINIMAL)).privacy is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{probability: 0.3}", "{fraction: 0.3}", "round.clients: privacy needs every client drawn by itself"),
        ("{probability: 0.3}", "{number: 3}", "round.clients: privacy needs every client drawn by itself"),
        ("clip_norm: 0.5, ", "", "round.clip_norm: privacy needs a bound"),
        ("weight: uniform, ", "", "aggregation.weight: with privacy every client counts the same"),
        ("weight: uniform", "weight: sqrt_examples", "aggregation.weight: with privacy"),
        ("zoo:MLP}", "zoo:MLP, counts: {bias: item}}", "plan.counts: these first values are counted"),
        ("clip_norm: 0.5", "clip_norm: 3.2e+38", "round.clip_norm: times the noise multiplier"),
        (", privacy: {noise_multiplier: 1.1}", "", "round.clients.probability: only for aggregation.privacy"),
        ("weight: uniform, ", "rule: median, ", "aggregation.privacy: unknown key"),
        ("noise_multiplier: 1.1", "noise_multiplier: 0", "aggregation.privacy.noise_multiplier: "),
        ("noise_multiplier: 1.1", "noise_multiplier: 1.1, delta: 1.0", "aggregation.privacy.delta: "),
        ("{probability: 0.3}", "{probability: 0.3, number: 3}", "round.clients: give exactly one of"),
    ],
)
def test_what_breaks_the_guarantee_is_refused(old: str, new: str, message: str, write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(PRIVATE.replace(old, new)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ("{by: dirichlet, clients: 3, alpha: 0}", "data.partition.alpha: should be greater than 0"),
        ("{by: dirichlet, client: 3}", "data.partition.client: unknown key; did you mean 'clients'?"),
        ("{clients: 3}", "data.partition: `by` is missing: natural, iid, dirichlet, quantity"),
        ("{by: idd, clients: 3}", "did you mean 'iid'?"),
        ("{by: [a], clients: 3}", "data.partition.by: \"['a']\" is none of natural"),
        ("iid", "data.partition: should be a mapping, not 'iid'"),
    ],
)
def test_errors_inside_variants(partition: str, message: str, write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(MINIMAL.replace("{by: iid, clients: 10}", partition)))
    assert message in str(caught.value)


def test_plan_files_with_the_wrong_names(write: Write) -> None:
    bad = FILES.replace("step.pt", "step.onnx").replace("eval.pt", "eval.bin")
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(bad))
    assert "plan.evaluation: 'eval.bin' ends neither in .onnx nor in .pt" in str(caught.value)
    assert "plan.roles: an ONNX plan says itself" in str(caught.value)


def test_without_an_evaluation_plan_nothing_is_evaluated(write: Write) -> None:
    text = FILES.replace("evaluation: eval.pt, ", "")
    assert load_experiment(write(text)).evaluates_on == ()
    with pytest.raises(ConfigError, match="there is no evaluation plan"):
        load_experiment(write(text + "evaluation: {on: [devices]}\n"))


def test_evaluation_that_never_happens_happens_nowhere(write: Write) -> None:
    text = FILES + "evaluation: {every: 0}\n"
    assert load_experiment(write(text)).evaluates_on == ()


def test_an_experiment_made_in_python_is_checked_as_well() -> None:
    experiment = Experiment.model_validate(
        {
            "name": "x",
            "plan": {"class": "a:B"},
            "data": DigitsData(source="digits", partition=DirichletPartition(by="dirichlet", clients=4)),
            "round": {"rounds": 2},
        }
    )
    assert experiment.directory == Path.cwd()
    with pytest.raises(ValidationError):
        experiment.name = "y"
    with pytest.raises(ValidationError, match="only 4 clients"):
        Experiment.model_validate(
            {
                "name": "x",
                "plan": experiment.plan,
                "data": experiment.data,
                "round": {"rounds": 2, "clients": ClientSample(number=5)},
            }
        )


@pytest.mark.parametrize(
    ("clients", "sample", "size"),
    [
        (943, {"fraction": 0.1}, 95),
        (50, {"fraction": 0.1}, 5),
        (3, {"fraction": 0.1}, 1),
        (5, {"number": 8}, 5),
        (100, {"number": 8}, 8),
        (7, {"fraction": 1.0}, 7),
    ],
)
def test_the_size_of_a_cohort(clients: int, sample: dict[str, Any], size: int) -> None:
    assert ClientSample(**sample).size(clients) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("2d", 172800),
        (".5min", 30),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "5 5m", "-5s", "5y", "1h, 3m", "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_durations_are_written_as_they_are_read(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


LAB = """\
transport: server
addresses: ["127.0.0.1:7001"]
devices:
  pixel: {identity: R58M123, labels: [fast, new], hub: left}
  old: {serial: emulator-5554}
  tv: {selector: "model=AFT*"}
gates: {max_thermal_status: moderate, min_battery_percent: 20}
deadlines: {push: 20m}
hubs: {left: 2}
"""


def test_a_lab_file(write: Write) -> None:
    lab = load_lab(write(LAB))
    assert lab.devices["pixel"].labels == ("fast", "new")
    assert lab.gates.max_thermal_status == "moderate"
    assert lab.deadlines.push == 1200
    assert lab.pushes == 4
    assert lab.hubs == {"left": 2}
    explained = explain(lab)
    assert load_lab(write(explained)) == lab


def test_an_empty_lab_file_is_all_defaults(write: Write) -> None:
    lab = load_lab(write(""))
    assert lab.devices == {}
    assert lab.transport == "auto"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices: {a: {}}", "line 1: devices.a: give exactly one of"),
        ("devices: {a: {serial: x}, b: {serial: x}}", "devices.b.serial: 'x' is 'a' already"),
        ("devices: {a: {serial: x, lables: []}}", "devices.a.lables: unknown key; did you mean 'labels'?"),
        ("devices: {'a b': {serial: x}}", "devices.a b"),
        ("gates: {max_thermal_status: lite}", "did you mean 'light'?"),
        ("gates: {min_battery_percent: 101}", "should be less than or equal to 100"),
        ("hubs: {left: 0}", "hubs.left: should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_with_a_lab_file(text: str, message: str, write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_lab(write(text))
    assert message in str(caught.value)


def test_the_gates_are_those_of_the_devices() -> None:
    from devicelab.config.lab import GatesConfig
    from devicelab.devices.health import Gates
    from devicelab.devices.thermal import ThermalStatus

    assert Gates.from_config(GatesConfig()) == Gates()
    config = GatesConfig(max_thermal_status="severe", strict=True, min_battery_percent=1.5)
    assert Gates.from_config(config) == Gates(
        max_thermal_status=ThermalStatus.SEVERE, strict=True, min_battery_percent=1.5
    )
