"""--log-driver and --log-opt: Docker's texts (dockerd 20.10 gave each of them), and what a monitor is told."""

import pytest

from berth.engine import logconfig
from berth.engine.state import Record
from berth.errors import InvalidParameter

START = "failed to initialize logging driver: "


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("nope", {}, 'error looking up logging plugin nope: plugin "nope" not found'),
        ("json-file", {"foo": "1"}, "unknown log opt 'foo' for json-file log driver"),
        ("local", {"x": "1"}, "unknown log opt 'x' for log driver local"),
        ("syslog", {"x": "1"}, "unknown log opt 'x' for syslog log driver"),
        ("journald", {"x": "1"}, "unknown log opt 'x' for journald log driver"),
        ("json-file", {"mode": "weird"}, "logger: logging mode not supported: weird"),
        ("json-file", {"max-buffer-size": "4m"}, "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
        ("json-file", {"mode": "non-blocking", "max-buffer-size": "zz"}, "error parsing option max-buffer-size: invalid size: 'zz'"),
        ("syslog", {"syslog-address": "foo"}, "syslog-address should be in form proto://address, got foo"),
        ("syslog", {"syslog-address": "http://a"}, "syslog-address should be in form proto://address, got http://a"),
        ("syslog", {"syslog-address": "unix:///nope"}, "stat /nope: no such file or directory"),
        ("syslog", {"syslog-address": "udp://a:b:c"}, 'parse "udp://a:b:c": invalid port ":c" after host'),
        ("syslog", {"syslog-facility": "foo"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "foo"}, "Invalid syslog format"),
        ("syslog", {"cache-disabled": "foo"}, "invalid value for option cache-disabled: foo"),
        ("journald", {"cache-max-size": "foo"}, "failed to initialize logging driver: invalid value for max-size: foo: invalid size: 'foo'"),
        ("json-file", {"max-size": "abc"}, START + "invalid size: 'abc'"),
        ("json-file", {"max-size": "0"}, START + "max-size must be a positive number"),
        ("json-file", {"max-size": "1m", "max-file": "0"}, START + "max-file cannot be less than 1"),
        ("json-file", {"max-file": "x"}, START + 'strconv.Atoi: parsing "x": invalid syntax'),
        ("json-file", {"compress": "maybe"}, START + 'strconv.ParseBool: parsing "maybe": invalid syntax'),
        ("json-file", {"max-size": "1m", "compress": "true"},
         START + "compress cannot be true when max-file is less than 2 or max-size is not set"),
        ("local", {"max-size": "abc"}, START + "invalid value for max-size: abc: invalid size: 'abc'"),
        ("local", {"max-file": "1"}, START + "compression cannot be enabled when max file count is 1"),
        ("local", {"compress": "maybe"}, START + 'error reading compress log option: strconv.ParseBool: parsing "maybe": invalid syntax'),
        ("json-file", {"labels-regex": "("}, START + "error parsing regexp: missing ), unterminated subpattern: `(`"),
        ("json-file", {"tag": "{{.ID"}, START + "template: log-tag:1: unclosed action"),
        ("json-file", {"tag": "{{.Nope}}"},
         START + "template: log-tag:1: executing at <.Nope>: can't evaluate field Nope: there is no such field"),
        ("json-file", {"tag": "{{nope .ID}}"}, START + 'template: log-tag:1: function "nope" not defined'),
        ("json-file", {"tag": "{{end}}"}, START + "template: log-tag:1: unexpected {{end}}"),
        ("json-file", {"tag": "x" * 1025}, START + "tag: 1025 characters; a template has at most 1024"),
    ],
)  # fmt: skip
def test_refused_in_dockers_words(driver: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        logconfig.checked({"Type": driver, "Config": options})
    assert str(error.value) == text


@pytest.mark.parametrize("value", [{"Type": 1}, {"Config": []}, {"Config": {"max-size": 5}}])
def test_wrong_types(value: dict) -> None:
    with pytest.raises(InvalidParameter):
        logconfig.checked(value if "Config" not in value or value["Config"] else {"Config": [1]})


def test_defaults() -> None:
    assert logconfig.checked(None) == logconfig.checked({"Type": "", "Config": None}) == {"Type": "json-file", "Config": {}}


@pytest.mark.parametrize(
    ("driver", "options", "limits"),
    [
        ("json-file", {}, (20_000_000, 5, False)), ("json-file", {"max-size": "-1"}, (0, 1, False)),
        ("json-file", {"max-size": "10m"}, (10_000_000, 1, False)), ("json-file", {"max-file": "3"}, (20_000_000, 3, False)),
        ("json-file", {"max-size": "1.5k", "max-file": "2", "compress": "1"}, (1500, 2, True)),
        ("json-file", {"compress": "true"}, (20_000_000, 5, True)), ("local", {}, (20_000_000, 5, True)),
        ("local", {"max-file": "1", "compress": "false"}, (20_000_000, 1, False)), ("syslog", {}, (0, 1, False)),
    ],
)  # fmt: skip
def test_limits(driver: str, options: dict[str, str], limits: tuple[int, int, bool]) -> None:
    assert logconfig.file_limits(driver, options) == limits


def record(driver: str, options: dict[str, str]) -> Record:
    config = {"Labels": {"app": "web", "tier": "1"}, "Env": ["A=b c", "AB=2", "X"], "Cmd": ["sleep", "9"]}
    host = {"LogConfig": {"Type": driver, "Config": options}}
    return Record("0123456789abcdef", "web", "sha256:fedcba9876543210", "bb:latest", config, host)


def test_attributes_and_tags() -> None:
    options = {"labels": "app,nope", "env-regex": "^A", "tag": "{{.Name}}/{{ .ID }} {{.ImageID}} {{.Command}}"}
    assert logconfig.attributes(record("json-file", options)) == {
        "app": "web", "A": "b c", "AB": "2", "tag": "web/0123456789ab sha256:fedcb sleep 9",  # that is what Docker makes of ImageID
    }  # fmt: skip
    assert logconfig.attributes(record("json-file", {})) == {}


@pytest.mark.parametrize(
    ("template", "tag"),
    [  # every result is dockerd's, but for names and ids
        ("plain", "plain"), ("{{.Name | upper}}", "WEB"), ("{{upper .Name}}", "WEB"), ("{{- .Name -}} x", "webx"), ("a{{/* c */}}b", "ab"),
        ("{{.ExtraAttributes nil}}", "map[A:b c app:web]"), ('{{index (.ExtraAttributes nil) "app"}}', "web"), ("{{(.ExtraAttributes nil).app}}", "web"),
        ("{{if .ContainerLabels.app}}yes{{else}}no{{end}}", "yes"), ("{{.ContainerLabels.nope}}", "<no value>"), ('{{index .ContainerLabels "nope"}}|', "|"),
        ("{{range .ContainerArgs}}[{{.}}]{{end}}", "[9]"), ("{{range $i, $a := .ContainerArgs}}{{$i}}={{$a}} {{end}}", "0=9 "), ("{{.ContainerName}}", "/web"),
        ("{{.Config.tag | len}}", "21"), ("{{json .ContainerArgs}}", '["9"]'), ("{{truncate .ID 4}}", "0123"), ("{{pad .Name 1 2}}|", " web  |"),
        ('{{title "abc def"}}', "Abc Def"), ('{{split .Name "e"}}', "[w b]"), ("{{$x := .Name}}{{$x}}{{$x}}", "webweb"), ('{{print 1 2 "a" "b"}}', "1 2ab"),
        ('{{printf "%s-%5.3s|%q|%d|%v|%T" .Name .ID .Name 5 .ContainerArgs 1}}', 'web-  012|"web"|5|[9]|int'), ("{{.DaemonName}}", "docker"),
        ('{{html "<a>"}}', "&lt;a&gt;"), ("{{js \"a'b\"}}", "a\\'b"), ('{{urlquery "a b"}}', "a+b"), ("{{.ImageFullID}}", "sha256:fedcba9876543210"),
        ("{{.ContainerEnv}}{{.ContainerEntrypoint}}", "[A=b c AB=2 X]sleep"), ("{{index .ContainerArgs 0}}", "9"), ('{{or "" .Name}}{{not .Name}}', "webfalse"),
    ],
)  # fmt: skip
def test_tag_templates(template: str, tag: str) -> None:
    options = {"labels": "app", "env": "A", "tag": template}
    assert logconfig.checked({"Type": "json-file", "Config": options})
    assert logconfig.attributes(record("json-file", options))["tag"] == tag


@pytest.mark.parametrize(
    "template",
    [
        "{{range 1000000}}{{range 1000000}}{{end}}{{end}}", '{{printf "%99999d" 1}}', '{{pad "x" 999999999 1}}', "{{range 999999999}}0123456789{{end}}",
        '{{$x := "0123456789"}}' + '{{$x = printf "%s%s%s%s" $x $x $x $x}}' * 20 + "{{$x}}", "{{" + "(" * 400 + ".ID" + ")" * 400 + "}}",
        "{{index .ContainerArgs 9}}", "{{len 5}}", "{{.ID 1}}",
    ],
)  # fmt: skip
def test_tags_that_would_not_end(template: str) -> None:
    """A client must not keep the engine busy or fill its memory; such a container does not start."""
    with pytest.raises(InvalidParameter, match="template: log-tag:1: "):
        logconfig.message(record("json-file", {"tag": template}), "/c")


def test_messages() -> None:
    assert logconfig.message(record("none", {}), "/c") is None
    assert logconfig.message(record("local", {}), "/c") == {
        "driver": "local", "attrs": {}, "path": "/c/container.log", "max_bytes": 20_000_000, "max_files": 5, "compress": True,
    }  # fmt: skip
    message = logconfig.message(record("syslog", {"syslog-address": "tcp://[::1]:99", "syslog-facility": "local3"}), "/c")
    assert message
    assert (message["scheme"], message["address"], message["facility"], message["tag"]) == ("tcp", "[::1]:99", 19, "0123456789ab")
    assert message["copy"] == {"path": "/c/container-cached.log", "max_bytes": 20_000_000, "max_files": 5, "compress": True}
    options = {"cache-max-size": "1m", "cache-max-file": "1", "cache-compress": "false"}
    message = logconfig.message(record("syslog", options), "/c")
    assert message
    assert message["copy"] == {"path": "/c/container-cached.log", "max_bytes": 1_000_000, "max_files": 1, "compress": False}
    assert "copy" not in (logconfig.message(record("syslog", {"cache-disabled": "true"}), "/c") or {})
    message = logconfig.message(record("journald", {"labels": "app", "tag": "t", "mode": "non-blocking"}), "/c")
    assert message
    assert message["fields"]["APP"] == "web"
    assert message["fields"]["SYSLOG_IDENTIFIER"] == message["fields"]["CONTAINER_TAG"] == "t"
    assert not message["waits"]


@pytest.mark.parametrize(
    ("driver", "options", "kept"),
    [("json-file", {"cache-disabled": "true"}, "json-file"), ("local", {}, "local"), ("none", {}, ""), ("syslog", {}, "local"),
     ("journald", {"cache-disabled": "false"}, "local"), ("journald", {"cache-disabled": "1"}, "")],
)  # fmt: skip
def test_what_is_kept_here(driver: str, options: dict[str, str], kept: str) -> None:
    assert logconfig.kept_as(record(driver, options)) == kept
    assert bool(logconfig.path_of(record(driver, options), "/c")) == bool(kept)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("udp://h", ("udp", "h:514")), ("tcp+tls://h", ("tcp+tls", "h:6514")), ("tcp://h:5", ("tcp", "h:5")), ("", ("", "")),
     ("udp://[::1]", ("udp", "[::1]:514")), ("unixgram:///dev/null", ("unixgram", "/dev/null"))],
)  # fmt: skip
def test_syslog_addresses(text: str, expected: tuple[str, str]) -> None:
    assert logconfig.syslog_address(text) == expected
