from serving.feed_log import FeedLog, Refusal


def refusal(number: int, reason: str = "gap") -> Refusal:
    return Refusal(number, reason, f"detail {number}", f"increment {number}-0")


def test_counts_and_what_is_waited_for() -> None:
    log = FeedLog()
    assert "Redis" in log.state.waiting_for

    log.connected()
    log.loaded()
    log.applied()
    log.applied()
    log.duplicate()
    state = log.state

    assert (state.connected, state.waiting_for) == (True, "")
    assert (state.bases, state.applied, state.duplicates, state.reconnects) == (1, 2, 1, 0)


def test_refusals_are_counted_by_reason_and_the_last_ones_kept_newest_first() -> None:
    log = FeedLog()
    for number in range(50):
        log.refused(refusal(number, "gap" if number % 2 else "bad_checksum"))
    state = log.state

    assert state.refused == {"gap": 25, "bad_checksum": 25}
    assert [item.at_ms for item in state.refusals] == list(range(49, 29, -1))
    assert "increment 49-0" in state.waiting_for


def test_a_lost_connection_is_news_once_and_its_return_is_counted() -> None:
    log = FeedLog()

    assert log.disconnected("refused")
    assert not log.disconnected("refused")
    assert not log.state.connected
    log.connected()
    log.connected()
    assert log.state.reconnects == 1
    assert log.disconnected("reset")
    assert "reset" in log.state.waiting_for
