"""A broker's options: from a TOML file, from keywords; wrong ones, and how they are refused."""

import re

import pytest

from gmdp import Broker, ConfigurationError, config
from gmdp.core.broker.options import BrokerOptions, ServiceOptions


@pytest.fixture
def written(tmp_path):
    """A function: writes a file, returns its path."""

    def write(text):
        path = tmp_path / "broker.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# The file


def test_load_gives_the_keywords_of_a_broker(written):
    path = written("""
        bind = ["tcp://127.0.0.1:*", "inproc://a"]   # a comment
        heartbeat_interval = 1
        request_ttl = 0.5
        max_queue = 1_000

        [services."slow.*"]
        request_ttl = 60.0
        attempts = 1

        [services."größe"]
        max_queue = 7
    """)
    keywords = config.load(path)
    assert keywords == {
        "bind": ["tcp://127.0.0.1:*", "inproc://a"],
        "heartbeat_interval": 1,
        "request_ttl": 0.5,
        "max_queue": 1000,
        "services": {"slow.*": {"request_ttl": 60.0, "attempts": 1}, "größe": {"max_queue": 7}},
    }
    options = Broker(**keywords).options
    assert (options.heartbeat_interval, options.request_ttl, options.max_queue) == (1, 0.5, 1000)
    assert options.for_service(b"slow.one").attempts == 1
    assert options.for_service("größe".encode()).max_queue == 7


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_load_takes_a_name_or_a_path(written, kind):
    assert config.load(kind(written("attempts = 2"))) == {"attempts": 2}


def test_an_empty_file_leaves_the_defaults(written):
    assert config.load(written("")) == {}


def test_lines_may_end_as_on_other_systems(written):
    assert config.load(written(b"attempts = 2\r\nliveness = 4\r\n")) == {"attempts": 2, "liveness": 4}


def test_G21_paths_are_relative_to_the_file(written):
    path = written("""
        bind = ["ipc://run/broker", "ipc:///run/broker", "ipc://*", "ipc://@abstract", "tcp://127.0.0.1:5555"]
        curve_key = "keys/broker.key_secret"
        curve_clients = "clients"
        plain_users = "/etc/users"
    """)
    folder = path.parent
    assert config.load(path) == {
        "bind": [
            f"ipc://{folder}/run/broker",
            "ipc:///run/broker",
            "ipc://*",
            "ipc://@abstract",
            "tcp://127.0.0.1:5555",
        ],
        "curve_key": str(folder / "keys/broker.key_secret"),
        "curve_clients": str(folder / "clients"),
        "plain_users": "/etc/users",
    }
    assert config.load(written('bind = "ipc://broker"')) == {"bind": f"ipc://{folder}/broker"}


def test_G21_what_is_no_path_stays_as_it_is(written):
    key = "a" * 40
    path = written(f'curve_key = "{key}"\ncurve_clients = "*"\nplain_users = 5\nbind = [5]')
    assert config.load(path) == {"curve_key": key, "curve_clients": "*", "plain_users": 5, "bind": [5]}
    (path.parent / key).touch()
    assert config.load(path)["curve_key"] == str(path.parent / key)
    assert config.load(written('curve_key = "env:KEY"')) == {"curve_key": "env:KEY"}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("attempts = 1\nliveness = = 3\n", ["TOML", "line 2"]),
        ("attempts = 1\nattempts = 2\n", ["TOML", "line 2"]),
        ("[services\n", ["TOML", "line 1"]),
        ("heartbeat_interval", ["TOML"]),
        (b'bind = "\xff"\n', ["UTF-8", "byte 8"]),
        (b"\x00", ["TOML"]),
        # Python itself refuses to read a number of so many digits.
        ("max_queue = 1" + "0" * 5000, ["TOML"]),
    ],
    ids=["syntax", "twice", "table", "half", "encoding", "nul", "digits"],
)
def test_a_file_that_is_no_toml_is_refused_by_its_name(written, text, facts):
    path = written(text)
    with pytest.raises(ConfigurationError) as refused:
        config.load(path)
    message = str(refused.value)
    assert all(fact in message for fact in [str(path), *facts])
    assert "\n" not in message


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml.*No such file"):
        config.load(tmp_path / "nowhere.toml")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=f"{re.escape(str(tmp_path))}.*directory"):
        config.load(tmp_path)


# The values

ABOVE_0 = ("heartbeat_interval", "request_ttl", "busy_timeout")
WHOLE = ("attempts", "max_queue", "max_services", "max_workers", "max_queue_bytes", "max_frame_size", "hwm")


@pytest.mark.parametrize("name", ABOVE_0)
@pytest.mark.parametrize("value", [0, -1, 0.0, float("nan"), float("inf"), "1", None, True, [1], b"1"], ids=repr)
def test_times_are_numbers_above_0(name, value):
    with pytest.raises(ConfigurationError) as refused:
        Broker(**{name: value})
    assert str(refused.value).startswith(f"{name} must be ")
    assert str(refused.value).endswith(f"not {value!r}")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [0, -1, 1.0, float("inf"), "1", None, True, {}], ids=repr)
def test_counts_are_whole_and_at_least_1(name, value):
    with pytest.raises(ConfigurationError) as refused:
        Broker(**{name: value})
    assert str(refused.value).startswith(f"{name} must be ")
    assert str(refused.value).endswith(f"not {value!r}")


@pytest.mark.parametrize("value", [2, 2.99, 0, -3, float("nan"), "3", True], ids=repr)
def test_liveness_is_at_least_3(value):
    with pytest.raises(ConfigurationError) as refused:
        Broker(liveness=value)
    assert re.search(r"^liveness .*\b3\b", str(refused.value))
    assert str(refused.value).endswith(f"not {value!r}")


@pytest.mark.parametrize("value", [7, 0, 8.0, "8"], ids=repr)
def test_max_frames_leaves_room_for_an_envelope(value):
    with pytest.raises(ConfigurationError) as refused:
        Broker(max_frames=value)
    message = str(refused.value)
    assert message.startswith("max_frames ")
    assert "8" in message
    assert repr(value) in message


def test_max_frames_is_no_more_than_clients_and_workers_read():
    Broker(max_frames=100_000)
    with pytest.raises(ConfigurationError, match=r"^max_frames must be .* 100000\b"):
        Broker(max_frames=100_001)


@pytest.mark.parametrize("name", [*ABOVE_0, "liveness", *WHOLE, "max_frames"])
def test_a_number_beyond_all_bounds_is_refused_by_name(name):
    with pytest.raises(ConfigurationError, match=f"^{name} must be "):
        Broker(**{name: 10**400})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hwm", 2**31),
        ("max_frame_size", 2**63),
        ("heartbeat_interval", 2**31 / 1000),
        ("heartbeat_interval", 1e6),
        ("heartbeat_interval", 1e300),
    ],
    ids=str,
)
def test_a_number_that_zeromq_cannot_hold_is_refused_by_name_before_the_start(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} must be "):
        Broker("tcp://127.0.0.1:*", **{name: value})


@pytest.mark.parametrize(
    "values",
    [
        {"heartbeat_interval": 0.001, "liveness": 3, "request_ttl": 1, "busy_timeout": 0.5},
        {"liveness": 3.5, "attempts": 1, "max_queue": 1, "max_services": 1, "max_workers": 1},
        {"max_queue_bytes": 1, "max_frame_size": 1, "max_frames": 8},
    ],
    ids=["times", "numbers", "sizes"],
)
def test_the_least_values_are_accepted(values):
    options = Broker(**values).options
    assert {name: getattr(options, name) for name in values} == values


def test_expiry_is_liveness_times_the_interval():
    assert BrokerOptions(heartbeat_interval=0.5, liveness=4).expiry == 2.0


def test_the_defaults_are_the_documented_ones():
    options = BrokerOptions()
    assert (options.heartbeat_interval, options.liveness, options.request_ttl) == (2.5, 3, 30)
    assert (options.busy_timeout, options.attempts, options.max_frame_size) == (900, 3, 16 * 1024 * 1024)


def test_options_cannot_be_changed_afterwards():
    options = BrokerOptions()
    with pytest.raises(AttributeError):
        options.attempts = 5


# The names


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("heartbeat_intervall", "heartbeat_interval"),
        ("heartbeat-interval", "heartbeat_interval"),
        ("request_tll", "request_ttl"),
        ("attempt", "attempts"),
        ("binds", "bind"),
        ("hvm", "hwm"),
    ],
)
def test_an_unknown_option_s_error_has_the_nearest_name(name, near):
    with pytest.raises(ConfigurationError) as refused:
        Broker(**{name: 1})
    assert repr(name) in str(refused.value)
    assert repr(near) in str(refused.value)


def test_the_error_of_an_option_like_no_other_lists_all_options():
    with pytest.raises(ConfigurationError, match=r"'zzz'.*attempts.*bind.*request_ttl"):
        Broker(zzz=1)


# Options of services


def test_the_first_pattern_that_matches_counts_and_the_broker_s_values_fill_the_rest():
    options = BrokerOptions(
        attempts=2,
        request_ttl=9.0,
        services={"a.*": {"attempts": 5}, "a.b": {"attempts": 7, "request_ttl": 1.0}, "*": {"max_queue": 3}},
    )
    assert options.for_service(b"a.b") == ServiceOptions(attempts=5, request_ttl=9.0)
    assert options.for_service(b"other") == ServiceOptions(attempts=2, request_ttl=9.0, max_queue=3)


def test_without_a_pattern_that_matches_the_broker_s_values_hold():
    options = BrokerOptions(attempts=2, services={"a": {"attempts": 5}})
    for name in (b"b", b"A", b"aa", b"", b"\xff\x00"):
        assert options.for_service(name) == ServiceOptions(attempts=2)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("report-?", b"report-1", True),
        ("report-?", b"report-10", False),
        ("[ab]*", b"beta", True),
        ("[!ab]*", b"beta", False),
        ("größe*", "größe.1".encode(), True),
        ("*", b"\xff\xfe\n", True),
        ("exact", b"exact", True),
        ("exact", b"exact ", False),
    ],
)
def test_patterns_are_those_of_a_shell(pattern, name, matches):
    options = BrokerOptions(services={pattern: {"attempts": 9}})
    assert (options.for_service(name).attempts == 9) is matches


@pytest.mark.parametrize(
    ("services", "facts"),
    [
        ({"a": {"request_tttl": 1}}, ["services['a']", "'request_tttl'", "'request_ttl'"]),
        ({"a": {"attempts": 0}}, ["services['a']", "attempts", "1", "not 0"]),
        ({"a": {"request_ttl": "1"}}, ["services['a']", "request_ttl", "'1'"]),
        ({"a": 5}, ["services['a']", "not 5"]),
        ({"a": [{}]}, ["services['a']", "[{}]"]),
        ([1], ["services", "[1]"]),
        ("x", ["services", "'x'"]),
        (False, ["services", "False"]),
        (0, ["services", "not 0"]),
        ([], ["services", "[]"]),
    ],
    ids=str,
)
def test_a_wrong_services_table_is_refused(services, facts):
    with pytest.raises(ConfigurationError) as refused:
        Broker(services=services)
    assert all(fact in str(refused.value) for fact in facts)


def test_only_some_options_may_differ_per_service():
    with pytest.raises(ConfigurationError, match=r"services\['a'\].*'liveness'.*attempts"):
        Broker(services={"a": {"liveness": 5}})


@pytest.mark.parametrize("bind", [5, None, [], (), [5], ["inproc://a", b"inproc://b"], {}], ids=repr)
def test_endpoints_are_strings_and_at_least_one(bind):
    with pytest.raises(ConfigurationError, match=r"endpoint.*5555"):
        Broker(bind)


@pytest.mark.parametrize(
    ("endpoint", "fact"),
    [
        ("", "tcp://"),
        ("127.0.0.1:5555", "tcp://"),
        ("udp://127.0.0.1:5555", "inproc://"),
        ("tcp://127.0.0.1", "HOST:PORT"),
        ("tcp://:5555", "HOST:PORT"),
        ("tcp://127.0.0.1:http", "the port must be a number or *"),
        ("tcp://127.0.0.1:5555\n", "HOST:PORT"),
        ("tcp://127.0.0.1:65536", "65535"),
        ("tcp://127.0.0.1:655360", "65535"),
        ("ipc://", "name"),
        ("ipc:///" + "x" * 107, "107"),
    ],
)
def test_a_bad_endpoint_s_error_has_the_endpoint_and_what_is_wrong(endpoint, fact):
    with pytest.raises(ConfigurationError) as refused:
        Broker([endpoint])
    assert repr(endpoint) in str(refused.value)
    assert fact in str(refused.value).replace(repr(endpoint), "")
