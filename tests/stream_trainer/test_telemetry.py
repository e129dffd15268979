"""The trainer's page."""

import asyncio

import httpx

from dimflow.server_lifecycle import free_port
from stream_trainer.telemetry import TrainerPage
from tests.stream_trainer.test_chunk_source import json_sample, records


def test_the_page_tells_what_the_owners_hold(make_trainer) -> None:
    trainer, source = make_trainer()

    async def run() -> None:
        trainer.started(source)
        await trainer.offer(records(0, 0, [json_sample(n) for n in range(30)] + [b"poison"]))
        await trainer.drain()

    asyncio.run(run())
    page = TrainerPage(trainer)
    values = {s.name + str(s.labels or ""): s.value for family in page.registry.collect() for s in family.samples}

    assert values["dimflow_trainer_standby"] == 0
    assert values["dimflow_trainer_samples_total"] == 30
    assert values["dimflow_trainer_records_total"] == 31
    assert values["dimflow_trainer_dead_letters_total"] == 1
    assert values["dimflow_trainer_rows"] == trainer.learner.table.rows
    assert values["dimflow_trainer_table_bytes"] == trainer.learner.table.bytes_used
    assert values["dimflow_trainer_lag_records"] == 7
    assert values["dimflow_trainer_published_sequence"] == values["dimflow_trainer_durable_sequence"] >= 1
    assert values["dimflow_trainer_progressive{'metric': 'samples'}"] == 30


def test_the_page_is_served_on_loopback(make_trainer) -> None:
    trainer, _ = make_trainer()
    port = free_port()
    page = TrainerPage(trainer)
    page.start("127.0.0.1", port)
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics")
    finally:
        page.stop()
        trainer.delivery.close()

    assert answer.status_code == 200
    assert "dimflow_trainer_rows" in answer.text


def test_a_standby_says_that_it_is_one() -> None:
    page = TrainerPage()
    values = {s.name: s.value for family in page.registry.collect() for s in family.samples}
    assert values == {"dimflow_trainer_standby": 1}
