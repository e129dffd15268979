"""A TCP proxy on 127.0.0.1 in front of a real server: delays, stalls, cuts connections, passes half a reply on.

Stands for the network between the trainer or a server and Redis or Kafka; neither side knows of it. What happens to the
n-th connection is decided by the seed and n alone, in bytes that passed and not in time, so a seed replays as far as
the programs themselves do. Kafka clients go where the broker says it is: see `advertised` for that.
"""

import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.faults.fault_seed import fault_random

__all__ = ["NetworkFaults", "TcpProxy"]

_PIECE_BYTES = 1 << 16
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class NetworkFaults:
    """How often what happens to a piece of up to 64 KiB that passes.

    Attributes:
        cut: share of pieces at which the connection is reset, after a random part of the piece went through.
        stall: share of pieces that wait for `stall_s`.
        delay: share of pieces that wait for a random time up to `delay_s`.
        stall_s, delay_s: seconds.
    """

    cut: float = 0.0
    stall: float = 0.0
    delay: float = 0.0
    stall_s: float = 2.0
    delay_s: float = 0.05


class TcpProxy:
    """Listens from the start on, so that its address is known before the server's; `forward_to` begins the service.

    Attributes:
        port: of 127.0.0.1.
        counts: what happened: connections, cuts, stalls, delays.
    """

    def __init__(self, seed: int, faults: NetworkFaults = NetworkFaults()) -> None:
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._target: tuple[str, int] | None = None
        self._down = False
        self._stopping = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def advertised(self) -> str:
        """For `advertised.listeners` of a broker behind this proxy, and for its clients."""
        return f"127.0.0.1:{self.port}"

    def forward_to(self, host: str, port: int) -> Self:
        """Begins to pass connections on."""
        self._target = (host, port)
        self._accepting.start()
        return self

    def down(self) -> None:
        """Resets every connection, and every new one until `up`."""
        self._down = True
        self.cut_all()

    def up(self) -> None:
        """Ends `down`."""
        self._down = False

    def cut_all(self) -> None:
        """Resets every connection there is."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)

    def close(self) -> None:
        """Ends everything."""
        self._stopping = True
        self.cut_all()
        if self._accepting.is_alive():
            self._accepting.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stopping:
            if not select.select([self._listener], [], [], _LOOK_S)[0]:
                continue
            client, _ = self._listener.accept()
            if self._down or self._target is None:
                _abort(client)
                continue
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _abort(client)
                continue
            server.settimeout(None)
            self.counts["connections"] += 1
            with self._lock:
                self._pairs.add((client, server))
            number = self.counts["connections"]
            thread = threading.Thread(target=self._serve, args=(client, server, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, server: socket.socket, number: int) -> None:
        chance = fault_random(self._seed, f"connection {number}")
        try:
            while not self._stopping:
                ready, _, _ = select.select([client, server], [], [], _LOOK_S)
                for source in ready:
                    piece = source.recv(_PIECE_BYTES)
                    if not piece or not self._pass_on(piece, server if source is client else client, chance):
                        return
        except (OSError, ValueError):  # one side is gone, or both were reset by `cut_all`
            pass
        finally:
            self._reset((client, server))

    def _pass_on(self, piece: bytes, to: socket.socket, chance: random.Random) -> bool:
        faults, drawn = self.faults, chance.random()
        if drawn < faults.cut:
            self.counts["cuts"] += 1
            to.sendall(piece[: chance.randrange(len(piece) + 1)])
            return False
        if drawn < faults.cut + faults.stall:
            self.counts["stalls"] += 1
            time.sleep(faults.stall_s)
        elif drawn < faults.cut + faults.stall + faults.delay:
            self.counts["delays"] += 1
            time.sleep(chance.uniform(0, faults.delay_s))
        to.sendall(piece)
        return True

    def _reset(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for one in pair:
            _abort(one)


def _abort(connection: socket.socket) -> None:
    """Closes with a reset instead of an orderly end."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    except OSError:
        pass
