"""Legacy code implements the contracts of gmdp.interfaces with classes of its own."""

import logging

from zope.interface import implementer
from zope.interface.verify import verifyObject

from gmdp import Broker, Client, NotAllowed, Worker
from gmdp.interfaces import IAccessPolicy, IBroker, IRequest, IRequestHandler


@implementer(IRequestHandler)
class Ledger:
    """A class ten years old, which knows nothing of sockets."""

    def __init__(self) -> None:
        self.balance = 0

    def __call__(self, request: IRequest) -> bytes:
        self.balance += int(request.body[0])
        return b"%d" % self.balance


@implementer(IAccessPolicy)
class Permissions:
    """A class of the same age, which has always known the rights of each user."""

    forbidden = frozenset({("call", b"ledger.wipe")})

    def __call__(self, user: str, action: str, service: bytes) -> bool:
        return (action, service) not in self.forbidden


def main() -> None:
    logging.basicConfig(level=logging.ERROR)  # a call that is not allowed is logged as a warning
    ledger, permissions = Ledger(), Permissions()
    verifyObject(IRequestHandler, ledger)
    verifyObject(IAccessPolicy, permissions)
    with (
        Broker("tcp://127.0.0.1:*", access=permissions) as broker,
        Worker(broker.endpoint, "ledger.book", ledger),
        Client(broker.endpoint) as client,
    ):
        verifyObject(IBroker, broker)
        for amount in (b"100", b"-30", b"5"):
            print(client.request("ledger.book", amount)[0].decode())
        try:
            client.request("ledger.wipe", b"")
        except NotAllowed as error:
            print(error.service.decode(), "is not allowed")


if __name__ == "__main__":
    main()
