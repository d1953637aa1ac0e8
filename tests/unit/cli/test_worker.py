"""``gmdp worker``: what it refuses."""

import pytest
from refusals import Refusal

ANYWHERE = "tcp://127.0.0.1:*"

REFUSALS = [
    Refusal("neither", ["worker", "svc"], "name either PACKAGE.MODULE:CALLABLE or --exec COMMAND"),
    Refusal(
        "both",
        ["worker", "svc", "handlers:work", "--exec", "cat"],
        "name either PACKAGE.MODULE:CALLABLE or --exec COMMAND",
    ),
    Refusal("no colon", ["worker", "svc", "handlers"], "'handlers' must look like package.module:callable"),
    Refusal("no callable named", ["worker", "svc", "handlers:"], "'handlers:' must look like package.module:callable"),
    Refusal("no module named", ["worker", "svc", ":work"], "':work' must look like package.module:callable"),
    Refusal(
        "module not there", ["worker", "svc", "handlerz:work"], "cannot import handlerz: .*No module named 'handlerz'"
    ),
    Refusal("package not there", ["worker", "svc", "no.such:work"], "cannot import no.such: .*No module named 'no'"),
    Refusal(
        "module wants another",
        ["worker", "svc", "wants:work"],
        "cannot import wants: .*No module named 'nothing_of_this_name'",
    ),
    Refusal(
        "module is wrong", ["worker", "svc", "raises:work"], "cannot import raises: SyntaxError.*raises.py, line 1.*"
    ),
    Refusal("module exits", ["worker", "svc", "exits:work"], "cannot import exits: .*"),
    Refusal("relative module", ["worker", "svc", ".handlers:work"], "cannot import .handlers: .*"),
    Refusal("callable not there", ["worker", "svc", "handlers:worc"], "handlers has no worc"),
    Refusal("attribute not there", ["worker", "svc", "handlers:Holder.function"], "handlers has no Holder.function"),
    Refusal("not callable", ["worker", "svc", "handlers:number"], "handlers:number is not callable.*int"),
    Refusal("no command", ["worker", "svc", "--exec", ""], "--exec needs a command"),
    Refusal("open quotation", ["worker", "svc", "--exec", "tr 'a b"], "--exec .*: No closing quotation"),
    Refusal(
        "command not there",
        ["worker", "svc", "--exec", "no-such-command -x"],
        "--exec: no such command: no-such-command",
    ),
    Refusal(
        "command not there, a path",
        ["worker", "svc", "--exec", "./command.txt"],
        "--exec: no such command: ./command.txt",
    ),
    Refusal(
        "threads of a command", ["worker", "svc", "--exec", "cat", "--threads", "2"], "--threads is for a callable.*"
    ),
    Refusal("no thread", ["worker", "svc", "handlers:work", "--threads", "0"], ".*--threads.*0 is not in the range.*"),
    Refusal(
        "no session",
        ["worker", "svc", "handlers:work", "--concurrency", "0"],
        "--concurrency must be .* at least 1, not 0",
    ),
    Refusal(
        "no number",
        ["worker", "svc", "handlers:work", "--concurrency", "x"],
        ".*--concurrency.*'x' is not a valid integer.*",
    ),
    Refusal(
        "unknown option", ["worker", "svc", "handlers:work", "--concurency", "2"], ".*[Nn]o such option.*--concurency.*"
    ),
    Refusal(
        "bad broker",
        ["worker", "svc", "handlers:work", "--broker", "127.0.0.1:5555"],
        "bad endpoint '127.0.0.1:5555': .*",
    ),
    Refusal(
        "wildcard broker",
        ["worker", "svc", "handlers:work", "--broker", ANYWHERE],
        "bad endpoint .*: .*wildcard.*",
    ),
    Refusal("version", ["worker", "svc", "handlers:work", "--mdp", "0.3"], ".*--mdp.*0.3.*"),
    Refusal(
        "beyond a year",
        ["worker", "svc", "handlers:work", "--heartbeat-interval", "1e10"],
        "--heartbeat-interval must be .*",
    ),
    Refusal("zero processes", ["worker", "svc", "handlers:work", "--processes", "0"], ".*'--processes': .*"),
    Refusal("negative processes", ["worker", "svc", "handlers:work", "--processes", "-1"], ".*'--processes': .*"),
    Refusal("no number of processes", ["worker", "svc", "handlers:work", "--processes", "x"], ".*'--processes': .*"),
    Refusal("worker without a service", ["worker"], ".*[Mm]issing argument 'SERVICE'.*"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refusal_is_one_line(folder, refusal):
    refusal.check(folder)
