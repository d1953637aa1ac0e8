"""Command lines that are refused: one line on standard error, nothing else, and an exit status other than 0."""

import re
from typing import NamedTuple

from processes import gmdp_here


class Refusal(NamedTuple):
    """A command line that is refused; {…} are filled in."""

    name: str
    arguments: list
    #: A pattern of the whole line.
    says: str
    status: int = 2

    def filled(self, **values):
        """The same with `values` for its {…}."""
        arguments = [each.format(**values) if "{" in each else each for each in self.arguments]
        return self._replace(arguments=arguments, says=self.says.format(**values) if "{" in self.says else self.says)

    def assert_ended_so(self, ended):
        """AssertionError unless `ended` is what is expected."""
        line = ended.one_line()
        program, _, message = line.partition(": ")
        assert program.split()[0] == "gmdp"
        assert re.fullmatch(self.says, message), line
        assert ended.status == self.status

    def check(self, cwd=None):
        """Run the command line in this process, and check how it ends."""
        self.assert_ended_so(gmdp_here(*self.arguments, cwd=cwd))
