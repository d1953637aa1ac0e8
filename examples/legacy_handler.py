"""Interfaces first: legacy code implements the contract with a class of its own."""

from zope.interface import implementer
from zope.interface.verify import verifyObject

from gmdp import Broker, Client, Worker
from gmdp.interfaces import IBroker, IRequest, IRequestHandler


@implementer(IRequestHandler)
class Ledger:
    """Ten years old; knows nothing of sockets."""

    def __init__(self) -> None:
        self.balance = 0

    def __call__(self, request: IRequest) -> bytes:
        self.balance += int(request.body[0])
        return b"%d" % self.balance


def main() -> None:
    ledger = Ledger()
    verifyObject(IRequestHandler, ledger)
    with (
        Broker("tcp://127.0.0.1:*") as broker,
        Worker(broker.endpoint, "ledger.book", ledger),
        Client(broker.endpoint) as client,
    ):
        verifyObject(IBroker, broker)
        for amount in (b"100", b"-30", b"5"):
            print(client.request("ledger.book", amount)[0].decode())


if __name__ == "__main__":
    main()
