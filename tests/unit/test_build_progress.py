"""How a build is shown: events to steps, steps to lines, lines to a terminal that is written down here, and logs for scripts."""

import base64
import json
import os
import random
import unicodedata

import pytest

from berth.build import kinds
from berth.cli import buildprogress, buildscreen
from berth.cli.buildmodel import Model, failure, harmless, seconds
from berth.cli.buildprogress import Plain, RawJson
from berth.cli.buildscreen import Marks, Screen, cut, frame, plain_width, update, width

MARKS = Marks(unicode=True, colours=False)
SECOND = 1_000_000_000


def events(*found):
    return [dict(zip(("kind", "vertex", "at_ns", "label", "text"), each, strict=False)) for each in found]


PLAN = events(
    ("planned", 1, 0, "[base 1/2] FROM bb"), ("planned", 2, 0, "[base 2/2] RUN make"), ("planned", 3, 0, "[stage-1 2/2] COPY . /"),
)  # fmt: skip


def model_of(*found):
    model = Model()
    for each in [*PLAN, *events(*found)]:
        model.event(each, 100.0)
    return model


class Terminal:
    """As much of a terminal (ECMA-48) as is used: it wraps, scrolls, and knows relative moves, erasing and colours."""

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns
        self.scrolled = []
        self.lines = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.bells = 0

    def text(self):
        return ["".join(line).rstrip() for line in self.scrolled + self.lines]

    def shown(self):
        return [line for line in self.text() if line]

    def feed(self, text):
        index = 0
        while index < len(text):
            letter = text[index]
            index += 1
            if letter == "\x1b":
                assert text[index] == "[", f"an escape that is not CSI: {text[index:index + 5]!r}"
                end = next(at for at in range(index + 1, len(text)) if "@" <= text[at] <= "~")
                self.control(text[index + 1 : end], text[end])
                index = end + 1
            elif letter == "\r":
                self.column = 0
            elif letter == "\n":
                self.column = 0  # the kernel's onlcr
                self.down()
            else:
                assert letter.isprintable(), f"a control character: {letter!r}"
                self.put(letter)

    def put(self, letter):
        cells = 0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if not cells:
            return
        if self.column + cells > self.columns:
            self.column = 0
            self.down()
        self.lines[self.row][self.column] = letter
        if cells == 2:
            self.lines[self.row][self.column + 1] = ""
        self.column += cells

    def down(self):
        if self.row == self.rows - 1:
            self.scrolled.append(self.lines.pop(0))
            self.lines.append([" "] * self.columns)
        else:
            self.row += 1

    def control(self, parameters, final):
        number = int(parameters) if parameters.isdigit() else 0
        if final == "A":
            self.row = max(0, self.row - (number or 1))
        elif final == "K":
            assert number == 2
            self.lines[self.row] = [" "] * self.columns
        elif final == "J":
            assert number == 0
            for row in range(self.row, self.rows):
                self.lines[row] = [" "] * self.columns
        else:
            assert final == "m", f"CSI {parameters}{final}"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(buildscreen, "monotonic", found)
    monkeypatch.setattr(buildprogress, "monotonic", found)
    return found


@pytest.fixture
def screen(monkeypatch, clock):
    """(a display, the terminal it draws on, what was written)."""
    terminal, written = Terminal(12, 60), []
    made = Screen(2)
    made._marks = MARKS
    monkeypatch.setattr(made, "_size", lambda: (terminal.rows, terminal.columns))

    def write(fd, data):
        written.append(data.decode())
        terminal.feed(data.decode())

    monkeypatch.setattr(buildscreen, "write_all", write)
    return made, terminal, written


def tell(display, *found):
    for each in events(*found):
        display.event(each)


# -- the model ----------------------------------------------------------------------------------------------------


def test_steps_and_their_times():
    model = model_of(("started", 2, 5 * SECOND), ("log", 2, 6 * SECOND, "", "one\ntwo\nthr"), ("cached", 1, 5 * SECOND))
    step = model.steps[2]
    assert model.counts() == (1, 3)
    assert step.last_lines(5) == ["one", "two", "thr"]
    assert step.lines[0] == (1.0, "one")
    assert step.took_s(103.5) == 3.5
    model.event(events(("log", 2, 7 * SECOND, "", "ee\n"))[0], 101)
    model.event(events(("done", 2, 9 * SECOND))[0], 101)
    assert step.last_lines(1) == ["three"]
    assert step.took_s(500) == 4.0
    assert model_of(("done", 1, 5 * SECOND)).steps[1].took_s(5) == 0


def test_images_are_pulled_before_there_is_a_plan():
    model = Model()
    model.event(events(("status", 0, SECOND, "", "abc: Pulling fs layer\n"))[0], 1)
    assert model.steps[0].running
    model.event(PLAN[0], 2)
    assert model.steps[0].state == kinds.DONE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"), ("10%\r20%\r30%", "30%"), ("10%\r", "10%"), ("\x1b[31mred\x1b[0m", "red"), ("\x1b]0;title\x07x", "x"),
        ("\x1b]0;title\x1b\\x", "x"), ("\x1bPq#0\x1b\\x", "x"), ("a\x1b[2Jb\x1b[10;20Hc", "abc"), ("\x1bcx", "x"), ("\x9b31mx", "x"), ("a\x07b\x08c", "abc"),
        ("a\tb", "a       b"), ("\x1b", ""), ("\x1b[", ""), ("\x1b[31", ""), ("\x1b]0;never ends", ""), ("ü漢", "ü漢"), ("\x1b(Bx", "x"), ("\u202ex\u2066", "x"),
        ("\udc80x", "x"), ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
    ],
)  # fmt: skip
def test_output_is_made_harmless(text, shown):
    assert harmless(text) == shown


def test_any_output_is_harmless():
    chosen = random.Random(7)
    for _ in range(3000):
        text = "".join(chosen.choice("\x1b\x9b\x07\r\t[]P;0m31HJ\\ab漢\x00\x85\u200b") for _ in range(chosen.randrange(30)))
        found = harmless(text)
        assert found.isprintable()
        Terminal(5, 10).feed(found)


def test_seconds():
    assert [seconds(each) for each in (0, 0.04, 1.25, 99.94, 99.96, 3599.4, 3600, 7290)] == ["0.0s", "0.0s", "1.2s", "99.9s", "1m40s", "59m59s", "1h00m", "2h01m"]


def test_a_failure_shows_its_step_and_place():
    model = model_of(("started", 2, 0), ("log", 2, SECOND, "", "".join(f"line {number}\n" for number in range(50))), ("failed", 2, 2 * SECOND, "", "it failed"))
    source = {"name": "Dockerfile", "first": 1, "start": 2, "end": 3, "lines": ["FROM bb", "RUN make \\", "  all", "CMD x"]}
    lines = failure(model.failed(), {"error": "it failed\x1b[2J", "source": source}).splitlines()
    assert lines[0] == "------"
    assert lines[1] == " > [base 2/2] RUN make:"
    assert lines[2] == "1.000 line 30"
    assert lines[21] == "1.000 line 49"
    assert lines[23:] == [
        "Dockerfile:2", "--------------------", "   1 |     FROM bb", "   2 | >>> RUN make \\", "   3 | >>>   all", "   4 |     CMD x",
        "--------------------", "ERROR: failed to build: it failed",
    ]  # fmt: skip
    assert failure(None, {"error": "x"}) == "ERROR: failed to build: x\n"


# -- lines --------------------------------------------------------------------------------------------------------


def test_a_frame():
    model = model_of(("cached", 1, 0), ("started", 2, SECOND), ("log", 2, SECOND, "", "cc a.c\ncc b.c\n"), ("started", 3, SECOND), ("done", 3, 2 * SECOND))
    assert frame(model, 103.2, 100, 24, 60, MARKS) == [
        "[+] Building 3.2s (2/3)", f" ✔ {'[base 1/2] FROM bb':<48}  cached", f" ⠹ {'[base 2/2] RUN make':<48}    3.2s", "   │ cc a.c", "   │ cc b.c",
        f" ✔ {'[stage-1 2/2] COPY . /':<48}    1.0s",
    ]  # fmt: skip


def test_a_frame_fits_any_terminal():
    model = Model()
    for number in range(1, 40):
        for each in events(("planned", number, 0, f"[stage {number}/40] RUN 漢字漢字 {'x' * number * 3}"), ("started", number, SECOND)):
            model.event(each, 1)
        model.event(events(("log", number, SECOND, "", "漢" * 100 + "\n" + "y" * 500 + "\n"))[0], 1)
        if number % 3:
            model.event(events(("done", number, 2 * SECOND))[0], 1)
    for rows in (1, 2, 3, 4, 5, 10, 24, 60):
        for columns in (1, 2, 3, 5, 10, 12, 20, 40, 80, 200):
            for marks in (MARKS, Marks(unicode=False, colours=True)):
                lines = frame(model, 5, 1, rows, columns, marks)
                assert len(lines) <= max(1, rows - 1)
                assert all(plain_width(line) < max(2, columns) for line in lines), (rows, columns)


def test_running_steps_come_before_those_that_have_ended():
    model = Model()
    for number in range(1, 21):
        model.event(events(("planned", number, 0, f"step {number}"))[0], 1)
        model.event(events(("started", number, SECOND))[0], 1)
        if number not in (3, 9):
            model.event(events(("done", number, number * SECOND))[0], 1)
    lines = frame(model, 2, 1, 8, 40, MARKS)
    assert lines[1] == " … 15 done"
    assert [line.split()[2] for line in lines[2:]] == ["3", "9", "18", "19", "20"]


def test_cutting_counts_columns():
    assert cut("漢字漢字", 5) == "漢字…"
    assert width(cut("漢字漢字", 6)) <= 6
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("abc", 0) == ""
    assert width("e\u0301") == 1


def test_only_what_has_changed_is_written():
    assert update(["a", "b", "c"], ["a", "b", "c"], 3) == ""
    assert update(["a", "b", "c"], ["a", "x", "c"], 3) == "\x1b[3A\r\n\x1b[2Kx\n\n"
    assert update(["a", "b"], ["a"], 2) == "\x1b[2A\r\n\x1b[J"
    assert update([], ["a"], 0) == "\r\x1b[2Ka\n"


# -- the terminal -------------------------------------------------------------------------------------------------


def test_a_build_on_a_terminal(screen, clock):
    display, terminal, _ = screen
    terminal.feed("$ berth build .\n")
    for each in PLAN:
        display.event(each)
    tell(display, ("cached", 1, 0), ("started", 2, SECOND), ("log", 2, SECOND, "", "\x1b[2Jcc a.c\n"))
    assert display.tick() == pytest.approx(0.1)
    assert terminal.shown()[0] == "$ berth build ."
    assert "   │ cc a.c" in terminal.shown()
    clock.now += 1
    tell(display, ("done", 2, 2 * SECOND), ("started", 3, 2 * SECOND), ("done", 3, 3 * SECOND))
    display.finish(failed=False, names=["app:latest"], image="sha256:0123456789abcdef")
    assert terminal.shown() == [
        "$ berth build .", "[+] Building 1.0s (3/3) FINISHED", f" ✔ {'[base 1/2] FROM bb':<48}  cached", f" ✔ {'[base 2/2] RUN make':<48}    1.0s",
        f" ✔ {'[stage-1 2/2] COPY . /':<48}    1.0s", " ✔ app:latest sha256:0123456789ab",
    ]  # fmt: skip


def test_ten_frames_a_second_and_none_for_nothing(screen, clock):
    display, _, written = screen
    for each in PLAN:
        display.event(each)
    display.tick()
    count = len(written)
    assert display.tick() is not None
    clock.now += 5
    assert display.tick() is None, "nothing runs: nothing is due"
    assert len(written) == count
    tell(display, ("started", 1, SECOND))
    for _ in range(1000):
        tell(display, ("log", 1, SECOND, "", "x\n"))
        clock.now += 0.001
        display.tick()
    assert len(written) - count <= 11


def test_a_terminal_that_is_resized(screen, clock):
    display, terminal, _ = screen
    for each in PLAN:
        display.event(each)
    tell(display, ("started", 1, 0), ("started", 2, 0), ("log", 2, 0, "", "".join(f"{number} {'z' * 70}\n" for number in range(30))))
    for rows, columns in ((12, 60), (3, 60), (12, 20), (40, 100), (1, 1), (12, 60)):
        terminal.rows, terminal.columns = rows, columns
        before = terminal.text()
        terminal.__init__(rows, columns)
        display.resized()
        clock.now += 0.2
        display.tick()
        assert before is not None
    display.finish(failed=True, names=[], image="")
    assert "FAILED" in terminal.text()[-5 :][0] or any("FAILED" in line for line in terminal.text())


def test_many_steps_on_a_small_terminal_leave_the_whole_list(screen, clock):
    display, terminal, _ = screen
    terminal.feed("before\n")
    for number in range(1, 31):
        tell(display, ("planned", number, 0, f"step {number}"), ("started", number, SECOND))
        display.tick()
        clock.now += 0.2
        tell(display, ("done", number, 2 * SECOND))
        display.tick()
        clock.now += 0.2
    display.finish(failed=False, names=[], image="")
    shown = terminal.shown()
    assert shown[0] == "before"
    assert sum("FINISHED" in line for line in shown) == 1
    assert [line.split()[2] for line in shown if " step " in line] == [str(number) for number in range(1, 31)]


# -- logs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(clock, monkeypatch):
    out = []
    monkeypatch.setattr(buildprogress, "write_all", lambda fd, data: out.append(data.decode()))
    return lambda **options: (Plain(2, **options), out)


def test_a_log(plain):
    display, out = plain(why=True)
    for each in PLAN:
        display.event(each)
    tell(display, ("cached", 1, 0), ("why", 2, 0, "", "files have changed"), ("started", 2, SECOND), ("log", 2, SECOND + 312_000_000, "", "out\nrest"), ("done", 2, 2 * SECOND))
    tell(display, ("started", 3, 2 * SECOND), ("failed", 3, 2 * SECOND, "", "no such file"))
    display.finish(failed=True, names=[], image="")
    assert "".join(out) == (
        "#1 [base 1/2] FROM bb\n#1 CACHED\n\n#2 [base 2/2] RUN make\n#2 0.312 out\n#2 1.000 rest\n#2 WHY: files have changed\n#2 DONE 1.0s\n"
        "\n#3 [stage-1 2/2] COPY . /\n#3 ERROR: no such file\n"
    )


def test_steps_side_by_side_take_turns(plain, clock):
    display, out = plain()
    for each in PLAN:
        display.event(each)
    tell(display, ("started", 1, 0), ("started", 2, 0), ("log", 1, 0, "", "a\n"), ("log", 2, 0, "", "b\n"), ("log", 1, 0, "", "c\n"))
    assert "".join(out) == "#1 [base 1/2] FROM bb\n#1 0.000 a\n#1 0.000 c\n"
    assert 0 < display.tick() <= 3.1
    clock.now += 3.1
    display.tick()
    tell(display, ("log", 1, 0, "", "d\n"), ("done", 2, SECOND), ("done", 1, SECOND))
    display.finish(failed=False, names=["x:1", "x:2"], image="sha256:1")
    assert "".join(out).split("\n", 3)[3] == (
        "#1 ...\n\n#2 [base 2/2] RUN make\n#2 0.000 b\n#2 DONE 1.0s\n\n#1 [base 1/2] FROM bb\n#1 0.000 d\n#1 DONE 1.0s\n"
        "\n#3 [internal] result\n#3 writing image sha256:1 done\n#3 naming to x:1 done\n#3 naming to x:2 done\n#3 DONE 0.0s\n"
    )


def test_nothing_of_many_steps_is_lost(plain, clock):
    chosen = random.Random(3)
    display, out = plain()
    said = {number: [] for number in range(1, 8)}
    for number in said:
        tell(display, ("planned", number, 0, f"step {number}"), ("started", number, 0))
    for index in range(500):
        number = chosen.choice(list(said))
        said[number].append(f"word{index}")
        tell(display, ("log", number, 0, "", f"word{index}\n"))
        clock.now += chosen.random() / 5
        display.tick()
    for number in said:
        tell(display, ("done", number, SECOND))
    display.finish(failed=False, names=[], image="")
    lines = "".join(out).splitlines()
    numbers = {line.split()[0]: int(line.split()[2]) for line in lines if " step " in line}
    found = {number: [] for number in said}
    for line in lines:
        if "word" in line:
            found[numbers[line.split()[0]]].append(line.split()[2])
    assert found == said


def test_what_a_program_writes_is_passed_on_to_pipes_and_not_to_terminals(plain):
    for raw, wanted in ((True, "\x1b[31mred\x1b[0m"), (False, "red")):
        display, out = plain(raw=raw)
        out.clear()
        tell(display, ("planned", 1, 0, "x\x1b[2J"), ("started", 1, 0), ("log", 1, 0, "", "\x1b[31mred\x1b[0m\n"), ("done", 1, 0))
        assert "".join(out) == f"#1 x\n#1 0.000 {wanted}\n#1 DONE 0.0s\n"


def test_raw_json(clock, monkeypatch):
    out = []
    monkeypatch.setattr(buildprogress, "write_all", lambda fd, data: out.append(data.decode()))
    display = RawJson()
    tell(display, ("planned", 1, 0, "x"), ("started", 1, 1_700_000_000 * SECOND + 5), ("log", 1, 1_700_000_000 * SECOND, "", "hi\n"))
    tell(display, ("done", 1, 1_700_000_001 * SECOND), ("warning", 0, 0, "", "careful"), ("planned", 2, 0, "y"), ("cached", 2, 5), ("why", 2, 5, "", "z"))
    lines = [json.loads(line) for line in "".join(out).splitlines()]
    digest = f"sha256:{1:064x}"
    assert lines[1] == {"vertexes": [{"digest": digest, "name": "x", "started": "2023-11-14T22:13:20.000000005Z"}]}
    assert base64.b64decode(lines[2]["logs"][0]["data"]) == b"hi\n"
    assert lines[3]["vertexes"][0]["completed"] == "2023-11-14T22:13:21.000000000Z"
    assert base64.b64decode(lines[4]["warnings"][0]["short"]) == b"careful"
    assert lines[6]["vertexes"][0]["cached"] is True


def test_the_form_of_a_display(monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda fd: False)
    assert isinstance(buildprogress.display_of("auto", why=False), Plain)
    assert isinstance(buildprogress.display_of("rawjson", why=False), RawJson)
    with pytest.raises(Exception, match="standard error is no terminal"):
        buildprogress.display_of("tty", why=False)
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(buildprogress.display_of("auto", why=False), Screen)
    monkeypatch.setenv("TERM", "dumb")
    assert not isinstance(buildprogress.display_of("auto", why=False), Screen)


def test_a_step_whose_cached_layers_are_lost_is_shown_again():
    model = model_of(("cached", 2, SECOND), ("started", 2, 2 * SECOND), ("log", 2, 2 * SECOND, "", "cc\n"))
    assert model.steps[2].running
    model.event({"kind": "done", "vertex": 2, "at_ns": 5 * SECOND}, 105.0)
    assert model.steps[2].state == kinds.DONE
    assert model.steps[2].took_s(0) == 3.0
