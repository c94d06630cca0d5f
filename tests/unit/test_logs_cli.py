"""`berth logs`: what its times mean."""

import time

import pytest

from berth.cli.logs import moment


@pytest.mark.parametrize("text", ["", "12", "12.5", "2020-01-02T03:04:05Z", "2020-01-02T03:04:05.123+02:00", "2020-01-02T03:04:05-02:00"])
def test_left_to_the_engine(text: str) -> None:
    assert moment("since", text) == text


@pytest.mark.parametrize(("text", "seconds"), [("1h30m", 5400), ("1.5s", 1.5), ("300ms", 0.3), ("-10s", -10)])
def test_spans(text: str, seconds: float) -> None:
    assert abs(time.time() - float(moment("since", text)) - seconds) < 1


def test_times_of_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert moment("since", "1970-01-02") == f"{24 * 3600 - 7200}.0"
        assert moment("since", "1970-01-02T03:04:05.25") == f"{24 * 3600 - 7200 + 3 * 3600 + 245}.25"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["abc", "1x", "1.5.5s", "2020-13-01"])
def test_neither(text: str) -> None:
    with pytest.raises(ValueError, match=f'invalid value for "since": failed to parse value as time or duration: "{text}"'):
        moment("since", text)
