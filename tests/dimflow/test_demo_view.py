"""The demo's panel, as text."""

from rich.console import Console

from dimflow.demo_view import DemoMoment, draw, terminal


def text_of(moment: DemoMoment, width: int = 110) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    with console.file:
        console.print(draw(moment))
    return console.export_text()


def test_it_shows_every_number_with_its_unit() -> None:
    text = text_of(
        DemoMoment(
            stage="globo, D 16",
            produced=300_000,
            trained=290_000,
            wanted=1_000_000,
            samples_per_s=123_456.7,
            progressive=(("auc", 0.76543), ("log_loss", 0.5714)),
            rows=52_396,
            table_bytes=6 << 20,
            budget_bytes=1 << 30,
            evicted_rows=17,
            increments=12,
            sequence=11,
            increment_bytes=5 << 20,
            dead_letters=3,
            freshness_p50_ms=640.0,
            freshness_p95_ms=1100.0,
            asked=((0.91, 1), (0.2, 1)),
            predict_ms=1.25,
            links=(("model", "http://127.0.0.1:1/model"),),
        )
    )
    expected = [
        "123,457",
        "290,000 of 300,000 sent",
        "0.7654",
        "0.5714",
        "52,396 (17 evicted)",
        "6.0 MiB of 1.0 GiB",
        "p50 640 ms, p95 1,100 ms",
        "12 (5.0 MiB), now 11",
        "1.2 ms for 2 samples",
        "0.91→1",
        "http://127.0.0.1:1/model",
        "Ctrl-C",
    ]
    assert [part for part in expected if part not in text] == []


def test_what_is_not_known_yet_is_a_dash() -> None:
    text = text_of(DemoMoment(stage="starting"))

    assert "p50 – ms" in text
    assert "nan" not in text.lower()


def test_the_screen_is_on_standard_error() -> None:
    assert terminal().stderr
