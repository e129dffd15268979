"""Where Java and the jars come from, and what is said where they cannot be had."""

import subprocess
from pathlib import Path

import pytest

from dimflow.errors import ServerProgramMissing
from dimflow.kafka_program import KAFKA_VERSION, KafkaProgram, find_java, find_kafka_program


def fake_java(folder: Path, version_line: str) -> Path:
    """A program that says it is some Java (a fault: such a one is not installed here)."""
    java = folder / "java"
    java.write_text(f"#!/bin/sh\necho '{version_line}' >&2\n")
    java.chmod(0o755)
    return java


def test_the_found_java_runs() -> None:
    answer = subprocess.run([find_java(), "-version"], capture_output=True, text=True, check=True)
    assert "version" in answer.stderr


def test_the_jars_are_those_of_one_version() -> None:
    program = find_kafka_program()
    names = {jar.name for jar in program.jars}
    assert {f"kafka_2.13-{KAFKA_VERSION}.jar", f"kafka-clients-{KAFKA_VERSION}.jar"} <= names
    assert len([name for name in names if name.startswith("kafka-clients-")]) == 1
    assert "slf4j-simple-1.7.36.jar" in names


@pytest.mark.parametrize(
    ("said", "major"),
    [('openjdk version "1.8.0_392"', 8), ('openjdk version "11.0.1" 2018', 11), ('openjdk version "16" 2021', 16)],
)
def test_an_old_java_is_refused_by_name(tmp_path: Path, said: str, major: int) -> None:
    java = fake_java(tmp_path, said)
    with pytest.raises(ServerProgramMissing, match=rf"{java} \(Java {major}\); expected .* version 17 or newer"):
        find_java((java,))


def test_a_newer_java_behind_an_old_one_is_taken(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = fake_java(tmp_path / "old", 'openjdk version "11.0.1"')
    new = fake_java(tmp_path / "new", 'openjdk version "21.0.2"')
    assert find_java((old, new)) == new


def test_no_java_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServerProgramMissing, match="found none; expected"):
        find_java(())
    with pytest.raises(ServerProgramMissing, match=r"nowhere \(does not run\)"):
        find_java((tmp_path / "nowhere",))


def test_without_network_and_cache_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ServerProgramMissing, match=r"kafka version: '4.3.1' could not be resolved.*a network where"):
        find_kafka_program("4.3.1", cache_dir=tmp_path, repository="http://127.0.0.1:9/maven2")


def test_the_command_line_joins_runtime_class_path_and_arguments() -> None:
    program = KafkaProgram(java=Path("/j/java"), jars=(Path("/a.jar"), Path("/b.jar")), version="1")
    command = program.command("kafka.Kafka", "x.properties", options=("-Xmx1m",))
    assert command == ["/j/java", "-Xmx1m", "-cp", "/a.jar:/b.jar", "kafka.Kafka", "x.properties"]
