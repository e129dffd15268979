"""`dimflow produce` as a person uses it."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from dimflow.produce_command import add_produce_arguments, run_produce
from dimflow.synthetic_streams import DriftingTeacher, best_auc
from model_contract.errors import SchemaError
from model_contract.process_settings import SettingError
from model_contract.sample_decoding import SampleDecoder
from model_contract.schema import ModelSchema

ReadTopic = Callable[[str], dict[int, list[Any]]]
ROOT = Path(__file__).parents[2]
MODEL = """
[model]
name = "clicks"
[[sparse]]
name = "user"
[[sparse]]
name = "tags"
multi = true
[[dense]]
name = "x"
"""


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_produce_arguments(parser)
    return parser.parse_args(words)


def decoded_rows(partitions: dict[int, list[Any]], schema: ModelSchema) -> int:
    records = [record for partition in partitions.values() for record in partition]
    types = [dict(record.headers)["content-type"].decode() for record in records]
    decoded = SampleDecoder(schema).decode([record.value for record in records], types)
    assert decoded.rejects == ()
    return decoded.batch.rows


@pytest.mark.parametrize("form", ["arrow", "json"])
@pytest.mark.parametrize("by", ["names", "model"])
def test_a_file(
    kafka: Any, records_of: ReadTopic, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, by: str
) -> None:
    model = tmp_path / "model.toml"
    model.write_text(MODEL)
    data = tmp_path / "clicks.parquet"
    rows = {
        "click": np.arange(700) % 2,
        "at": np.arange(700),
        "user": np.arange(700),
        "tags": [["a", "b"]] * 700,
        "x": np.ones(700),
    }
    pa.parquet.write_table(pa.table(rows), data)
    topic = kafka.fresh_name()
    names = {
        "names": ["--sparse", "user", "tags", "--multi", "tags", "--dense", "x"],
        "model": ["--model-file", str(model)],
    }[by]
    words = ["--data", str(data), "--label", "click", "--time", "at", *names, "--format", form, "--samples", "600"]
    kafka_words = ["--brokers", kafka.bootstrap, "--topic", topic, "--partitions", "2", "--json"]
    assert run_produce(parsed(*words, *kafka_words)) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["samples"] == figures["acknowledged"] == 600
    assert figures["messages"] == (1 if form == "arrow" else 600)
    assert figures["samples_per_s"] > 0
    assert figures["best_auc"] is None
    assert not figures["interrupted"]
    assert decoded_rows(records_of(topic), ModelSchema.parse_toml(MODEL)) == 600


def test_the_teacher_tells_what_can_be_reached(
    kafka: Any, records_of: ReadTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = kafka.fresh_topic(partitions=1)
    words = ["--stream", "teacher", "--samples", "3_000", "--skip", "500", "--seed", "7", "--change-at", "1000"]
    assert run_produce(parsed(*words, "--brokers", kafka.bootstrap, "--topic", topic, "--json")) == 0
    figures = json.loads(capsys.readouterr().out)
    stream = DriftingTeacher(seed=7, change_at=1_000)
    logits = np.concatenate([batch.true_logits for batch in stream.batches(3_000, 1_000, start=500)])
    assert figures["best_auc"] == pytest.approx(best_auc(logits), rel=1e-12)
    assert decoded_rows(records_of(topic), stream.schema) == 3_000


def test_noise_and_words_for_people(kafka: Any, capsys: pytest.CaptureFixture[str]) -> None:
    topic = kafka.fresh_topic(partitions=1)
    made = [
        "--random-slots",
        "3",
        "--random-ids",
        "50",
        "--random-dense",
        "2",
        "--random-lookups",
        "4",
        "--random-varied",
    ]
    words = ["--stream", "random", "--samples", "1000", *made, "--random-distribution", "gaussian"]
    assert run_produce(parsed(*words, "--brokers", kafka.bootstrap, "--topic", topic)) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("1,000 samples acknowledged in 1 messages")
    assert "best reachable AUC 0.5000" in printed.out
    assert printed.err == "", "no progress bar where there is no terminal"


def test_rate(kafka: Any, capsys: pytest.CaptureFixture[str]) -> None:
    topic = kafka.fresh_topic(partitions=1)
    words = ["--stream", "teacher", "--samples", "300", "--rate", "1000"]
    assert run_produce(parsed(*words, "--brokers", kafka.bootstrap, "--topic", topic, "--json")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["seconds"] >= 0.25
    assert figures["messages"] == 6


def test_ctrl_c_ends_it_cleanly(kafka: Any, records_of: ReadTopic) -> None:
    topic = kafka.fresh_topic(partitions=1)
    words = ["--stream", "teacher", "--rate", "2000", "--brokers", kafka.bootstrap, "--topic", topic, "--json"]
    command = [sys.executable, "-m", "dimflow", "produce", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not any(records_of(topic).values()):
                assert process.poll() is None
                assert time.monotonic() < deadline, "nothing was sent within 60 s"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, err
    figures = json.loads(out)
    assert figures["interrupted"]
    assert figures["samples"] == figures["acknowledged"] == decoded_rows(records_of(topic), DriftingTeacher().schema)


def test_no_broker_is_one_line_and_exit_code_1() -> None:
    words = ["--stream", "teacher", "--brokers", "127.0.0.1:1", "--connect-timeout-s", "0.5"]
    ended = subprocess.run(
        [sys.executable, "-m", "dimflow", "produce", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        "dimflow produce: brokers 127.0.0.1:1, topic 'samples': not reached within 0.5 s"
    )
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--data", "a.csv"], "--sparse"),
        (["--data", "a.csv", "--model-file", "no.toml"], "--model-file"),
        (["--data", "a.csv", "--model-file", "no.toml", "--dense", "x"], "--model-file"),
        (["--data", "a.csv", "--sparse", "a", "--sasl-username", "me"], "--sasl-password-file"),
        (
            ["--data", "a.csv", "--sparse", "a", "--sasl-username", "me", "--sasl-password-file", "no"],
            "--sasl-password",
        ),
        (["--stream", "teacher", "--rate", "0"], "--rate"),
        (["--stream", "teacher", "--rate", "nan"], "--rate"),
    ],
)
def test_arguments_that_contradict_each_other(words: list[str], name: str) -> None:
    with pytest.raises(SettingError, match=name):
        run_produce(parsed(*words))


def test_a_model_file_that_is_none(tmp_path: Path) -> None:
    model = tmp_path / "model.toml"
    model.write_text("[model]\n")
    with pytest.raises(SchemaError):
        run_produce(parsed("--data", "a.csv", "--model-file", str(model)))


@pytest.mark.parametrize(
    "words", [[], ["--data", "a", "--stream", "teacher"], ["--stream", "random", "--samples", "-1"]]
)
def test_arguments_that_argparse_refuses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed(*words)
    capsys.readouterr()
