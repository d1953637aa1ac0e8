"""Draw the state machines of gmdp from their tables, into docs/architecture.md.

``python docs/draw_states.py`` replaces what stands between the markers of each machine;
``python docs/draw_states.py --check`` changes nothing and ends with status 1 where the page
differs from the code.
"""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gmdp.core import states
from gmdp.core.broker import records
from gmdp.core.peer import calls, connector, sessions

PAGE = Path(__file__).with_name("architecture.md")


class Machine(NamedTuple):
    """One state machine: its table, and where it begins."""

    #: From each state, the states that may follow; None stands for "not there yet".
    table: Mapping[enum.Enum | None, frozenset[enum.Enum]]
    #: The state in which an object is made; None if the table has an entry for None.
    first: enum.Enum | None


#: By the name of its marker in the page.
MACHINES = {
    "State": Machine(states.TRANSITIONS, states.State.NEW),
    "Place": Machine(records.MOVES, None),
    "SessionState": Machine(sessions.TRANSITIONS, sessions.SessionState.DETACHED),
    "CallState": Machine(calls.TRANSITIONS, calls.CallState.WAITING),
    "Phase": Machine(connector.TRANSITIONS, connector.Phase.CONNECTING),
}


def drawn(machine: Machine) -> str:
    """The machine as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2"]
    if machine.first is not None:
        lines.append(f"    [*] --> {_label(machine.first)}")
    for state, following in machine.table.items():
        source = "[*]" if state is None else _label(state)
        lines += [f"    {source} --> {_label(target)}" for target in sorted(following, key=_order)]
        if not following:
            lines.append(f"    {source} --> [*]")
    return "\n".join([*lines, "```"])


def _label(state: enum.Enum) -> str:
    return state.name.lower()


def _order(state: enum.Enum) -> int:
    """The position of a state in its enum."""
    return list(type(state)).index(state)


def page_with_drawings(text: str) -> str:
    """The page `text`, with each machine drawn anew between its markers."""
    for name, machine in MACHINES.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        diagram = drawn(machine)
        text, count = marked.subn(lambda found, diagram=diagram: f"{found[1]}{diagram}\n{found[2]}", text)
        if count != 1:
            raise SystemExit(f"{PAGE.name} must have the markers of {name} once, not {count} times")
    return text


def main(arguments: list[str]) -> int:
    """Draw, or with ``--check`` compare; returns the exit status."""
    text = PAGE.read_text(encoding="utf-8")
    new = page_with_drawings(text)
    if new == text:
        return 0
    if "--check" in arguments:
        print(f"{PAGE.name} differs from the tables: run python docs/draw_states.py", file=sys.stderr)
        return 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
