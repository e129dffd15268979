"""How far does the recent log-loss rise over its level on sound streams? What the quality gate's default must allow.

`python -m benchmarks.gate_band [--quick] [--seeds 2] [--rows 1500000] [--data FILE --model NAME]`.
The trainer's own parts and default settings, in memory: a cut after every so many samples, judged by a gate with the
default rules. Without `--data` the streams are the drifting teacher, once as it is and once with its item and noise
slots swapping roles half-way, and the click log where it is there.

Results: for each stream and cut size the largest rise of any seed after the first `GATE_LEAST_SAMPLES`, the sample it
came at, and how often the gate closed.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
from threadpoolctl import threadpool_limits

from benchmarks.click_stream import CLICKS, ClickStream, load_clicks
from benchmarks.overlapped_training import decoded
from benchmarks.report import report
from dimflow.synthetic_streams import DriftingTeacher
from model_contract.arrow_samples import encode_arrow
from stream_trainer.process import make_learner
from stream_trainer.quality_gate import GateRules, QualityGate
from stream_trainer.settings import TrainerSettings

_MESSAGE_ROWS = 4096
_CUT_MESSAGES = (1, 5)


def highest_rise(stream: ClickStream, seed: int, cut_messages: int) -> dict[str, float]:
    """Learns the stream once; the largest rise over the level, where it was, and how often the gate closed."""
    nowhere = Path("unused")
    settings = TrainerSettings(model_file=nowhere, state_dir=nowhere, seed=seed)
    rules = GateRules(
        loss_rise=settings.gate_loss_rise,
        recent_samples=settings.gate_recent_samples,
        level_samples=settings.gate_level_samples,
        least_samples=settings.gate_least_samples,
    )
    learner = make_learner(stream.schema, settings)
    gate = QualityGate(rules, learner.step.layout, learner.schema.slot_names)
    state = gate.resume(learner.fresh_state(0))
    rise, at = 0.0, 0
    for number, decode in enumerate(decoded(stream), 1):
        learner.learn(learner.prepare(decode(), 0), 0)
        if number % cut_messages:
            continue
        level = gate.level_loss
        manifest = msgspec.structs.replace(state.manifest, sequence=number)
        gate.judge(learner.take_cut(manifest))
        if learner.counts.samples > rules.least_samples and gate.recent_loss / level - 1 > rise:
            rise, at = gate.recent_loss / level - 1, learner.counts.samples
    return {"rise": round(rise, 4), "at": at, "closings": gate.closings}


def streams(rows: int, data: Path | None, model: str) -> Iterator[tuple[str, ClickStream]]:
    """The streams by name."""
    if data is not None:
        yield data.stem, load_clicks(rows, data, model)
        return
    for name, change_at in (("teacher", None), ("teacher_swapped", rows // 2)):
        teacher = DriftingTeacher(seed=0, change_at=change_at)
        batches = (batch.samples for batch in teacher.batches(rows, _MESSAGE_ROWS))
        messages = tuple(encode_arrow(pa.Table.from_batches([batch]), teacher.schema) for batch in batches)
        yield name, ClickStream(name, teacher.schema, messages, rows)
    if CLICKS.exists():
        yield "globo", load_clicks(rows)


def main() -> None:
    """Parses the command line and learns every stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed on 150,000 rows")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--data", type=Path, help="a file of samples, under --model")
    parser.add_argument("--model", default="globo", help="packaged model of the data")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows, seeds = (150_000, 1) if options.quick else (options.rows, options.seeds)
    results: dict[str, object] = {}
    with threadpool_limits(1, user_api="blas"):
        for name, stream in streams(rows, options.data, options.model):
            for cut_messages in _CUT_MESSAGES:
                runs = [highest_rise(stream, seed, cut_messages) for seed in range(seeds)]
                worst = max(runs, key=lambda run: run["rise"])
                results[f"{name}_cut_{cut_messages * _MESSAGE_ROWS}"] = {"rows": stream.rows, **worst}
    report("gate_band", results)


if __name__ == "__main__":
    main()
