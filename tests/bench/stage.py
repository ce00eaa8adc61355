"""Who runs where: endpoint and load on one core, the gateway or the application it is compared with on another."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict, cast

import orjson

from tests.bench.control import Control
from tests.bench.load import Consumed, Idle, Latency, Published
from tests.bench.machine import Cores, Window
from tests.bench.profile import sampling
from tests.rig.processes import ROOT, Gateway, ServerProcess, answers, clean_environment, free_port, gateway_config
from tests.rig.rabbitmq import RabbitMQ

QUEUE = "bench"
ROUTES: list[object] = [
    {"match": {"topic": "bench/#"}, "to": [{"queue": QUEUE}]},
    {"match": {"topic": "stream/{device}/#"}, "to": [{"kinesis": QUEUE, "partition_key": "{device}"}]},
    {
        "match": {"topic": "aggregate/{device}/#"},
        "to": [{"kinesis": QUEUE, "partition_key": "{device}", "aggregate": True}],
    },
    {"match": {"topic": "archive/#"}, "to": [{"firehose": QUEUE, "delimiter": "\n"}]},
]
TOPIC_ROUTES: list[object] = [
    {"match": {"topic": "bench/#"}, "to": [{"sns": "arn:aws:sns:us-east-1:000000000000:bench"}]}
]
PROCESS_TIMEOUT = 300.0
Broker: TypeAlias = Gateway | RabbitMQ


class Effort(TypedDict):
    """How long a run takes."""

    rounds: int
    warmup: float
    """Seconds before measuring."""
    duration: float
    """Seconds of measuring."""
    idle_connections: int


FULL: Effort = {"rounds": 3, "warmup": 1.5, "duration": 5.0, "idle_connections": 10_000}
QUICK: Effort = {"rounds": 1, "warmup": 0.5, "duration": 1.5, "idle_connections": 500}


class EndpointProcess(ServerProcess):
    """The instant endpoint."""

    def __init__(self, directory: Path, core: int | None = None) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "tests.bench.endpoint", "--port", str(self.port)]
        super().__init__("endpoint", command, directory / "endpoint.log", core=core)
        self.control = Control(self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        return answers(self.port, "/stats")


class Stage:
    """Starts processes on their cores and gives back what they measured. Use it as `with Stage.open(…)`."""

    def __init__(self, directory: Path, cores: Cores, effort: Effort, endpoint: EndpointProcess) -> None:
        self.effort = effort
        self.endpoint = endpoint
        self.profile: Path | None = None
        """Where stacks of the gateway are written while it is under load; nowhere unless it is set."""
        self._directory = directory
        self._cores = cores

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path, cores: Cores, effort: Effort) -> Iterator[Stage]:
        endpoint = EndpointProcess(directory, cores.load)
        endpoint.start()
        try:
            yield cls(directory, cores, effort, endpoint)
        finally:
            endpoint.close()

    @contextlib.contextmanager
    def gateway(self, routes: Sequence[object] = ROUTES, workers: int | None = None) -> Iterator[Gateway]:
        """A fresh gateway; it has to end well and without a traceback. With `workers`, on every core that there is."""
        core = self._cores.gateway if workers is None else None
        config = gateway_config(
            self.endpoint.url, protocols=("mqtt", "stomp", "amqp091"), routes=routes, workers=workers or 1
        )
        gateway = Gateway(config, self._directory, core=core)
        gateway.start()
        try:
            yield gateway
        finally:
            gateway.close()
        gateway.check_log()

    @contextlib.contextmanager
    def rabbitmq(self) -> Iterator[RabbitMQ]:
        """A fresh RabbitMQ in the gateway's place."""
        broker = RabbitMQ(Path(tempfile.mkdtemp(dir=self._directory)), core=self._cores.gateway)
        broker.start()
        try:
            yield broker
        finally:
            broker.close()

    def publish(
        self, gateway: Gateway, connections: int, qos: int = 1, *, prefix: str = "bench", topics: int = 1
    ) -> Published:
        """`prefix` is the first level of the topics, which says where a rule sends them."""
        more = [f"--qos={qos}", f"--prefix={prefix}", f"--topics={topics}"]
        return cast("Published", self._load("publish", gateway.port("mqtt"), gateway.pid, connections, *more))

    def fan(self, gateway: Gateway, subscribers: int, qos: int) -> Published:
        return cast("Published", self._load("fan", gateway.port("mqtt"), gateway.pid, subscribers, f"--qos={qos}"))

    def paced(self, gateway: Gateway, connections: int) -> Latency:
        return cast("Latency", self._load("paced", gateway.port("mqtt"), gateway.pid, connections))

    def probe(self, connections: int) -> Latency:
        return cast("Latency", self._load("probe", self.endpoint.port, self.endpoint.pid, connections))

    def send(self, gateway: Gateway, connections: int) -> Published:
        return cast("Published", self._load("send", gateway.port("stomp"), gateway.pid, connections))

    def consume(self, gateway: Gateway, connections: int, *, together: int = 1) -> Consumed:
        """`together`: how many messages each ACK is for; consumers hold several times that."""
        more = [f"--together={together}", f"--prefetch={max(100, 4 * together)}"]
        return cast("Consumed", self._load("consume", gateway.port("stomp"), gateway.pid, connections, *more))

    def amqp_publish(self, broker: Broker, connections: int) -> Published:
        return cast("Published", self._load("amqp-publish", *of_amqp(broker), connections))

    def amqp_consume(self, gateway: Gateway, connections: int, prefetch: int) -> Consumed:
        more = [f"--prefetch={prefetch}"]
        return cast("Consumed", self._load("amqp-consume", *of_amqp(gateway), connections, *more))

    def amqp_drain(self, broker: Broker, connections: int, prefetch: int, messages: int) -> Published:
        more = [f"--prefetch={prefetch}", f"--messages={messages}"]
        return cast("Published", self._load("amqp-drain", *of_amqp(broker), connections, *more))

    def amqp_call(self, broker: Broker) -> Latency:
        return cast("Latency", self._load("amqp-call", *of_amqp(broker), 1))

    def idle(self, gateway: Gateway, *, subscribe: bool = False) -> Idle:
        more = ["--subscribe"] if subscribe else []
        return cast(
            "Idle", self._load("idle", gateway.port("mqtt"), gateway.pid, self.effort["idle_connections"], *more)
        )

    def application(self, kind: str) -> Window:
        """An application of today, in the gateway's place."""
        command = ["tests.bench.comparisons", kind, f"--port={self.endpoint.port}", *self._common()]
        return cast("Window", run(command, self._cores.gateway))

    def operations(self, module: str) -> dict[str, float]:
        """Operations timed by a module in a process of its own, in the gateway's place."""
        command = [module, f"--duration={self.effort['duration']}"]
        return cast("dict[str, float]", run(command, self._cores.gateway))

    def _load(self, kind: str, port: int, watched: int, connections: int, *more: str) -> object:
        own = [f"--port={port}", f"--watch={watched}", f"--connections={connections}"]
        own += [f"--queue={QUEUE}", f"--endpoint={self.endpoint.port}"]
        command = ["tests.bench.load", kind, *own, *more, *self._common()]
        if self.profile is None:
            return run(command, self._cores.load)
        with sampling(watched, self.effort["warmup"] + self.effort["duration"], self.profile):
            return run(command, self._cores.load)

    def _common(self) -> list[str]:
        return [
            f"--endpoint-pid={self.endpoint.pid}",
            f"--warmup={self.effort['warmup']}",
            f"--duration={self.effort['duration']}",
        ]


def of_amqp(broker: Broker) -> tuple[int, int]:
    """The port that a broker speaks AMQP 0-9-1 on, and the process that does so."""
    if isinstance(broker, RabbitMQ):
        return broker.port, broker.node_pid
    return broker.port("amqp091"), broker.pid


def run(module: list[str], core: int) -> object:
    """Run a module of ours on a core; the JSON that it writes. `RuntimeError` with its words when it fails."""
    with subprocess.Popen(
        [sys.executable, "-m", *module],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment({}),
    ) as process:
        try:
            os.sched_setaffinity(process.pid, {core})
            output, problems = process.communicate(timeout=PROCESS_TIMEOUT)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(module)}: exit code {process.returncode}\n{problems.decode()}")
    return cast("object", orjson.loads(output))
