"""Keys and rules: which users may connect, which may serve and call what, and which were refused."""

from pathlib import Path
from tempfile import TemporaryDirectory

from gmdp import AuditRecord, AuthenticationFailed, Broker, Client, NotAllowed, Request, Worker
from gmdp.security import generate_keys

RULES = [
    {"user": "teller", "serve": "bank.*"},
    {"user": "alice", "call": "bank.balance"},
]


def balance(request: Request) -> bytes:
    return b"75"


def main() -> None:
    refused: list[AuditRecord] = []
    with TemporaryDirectory() as name:
        # Each peer makes a pair of its own, and gives the public file away: `gmdp keygen NAME`.
        folder, known = Path(name), Path(name, "known")
        known.mkdir()
        server_key, secret_key = generate_keys("broker", folder)
        for user in ("teller", "alice"):
            public, _ = generate_keys(user, folder)
            public.rename(known / public.name)  # NAME.key lets user NAME in; removing the file ends NAME's work
        generate_keys("stranger", folder)

        with (
            Broker(
                "tcp://127.0.0.1:*", curve_key=secret_key, curve_clients=known, access=RULES, audit=refused.append
            ) as broker,
            Worker(
                broker.endpoint,
                "bank.balance",
                balance,
                curve_key=folder / "teller.key_secret",
                server_key=server_key,
            ),
            Client(broker.endpoint, curve_key=folder / "alice.key_secret", server_key=server_key) as alice,
            Client(broker.endpoint, curve_key=folder / "stranger.key_secret", server_key=server_key) as stranger,
        ):
            print("balance:", alice.request("bank.balance", b"")[0].decode())
            for client, service in ((alice, "bank.transfer"), (stranger, "bank.balance")):
                try:
                    client.request(service, b"")
                except (NotAllowed, AuthenticationFailed) as error:
                    print(f"{service}: {type(error).__name__}")
    for record in refused:
        print(record.kind, record.service.decode() or "at the door", record.reason)


if __name__ == "__main__":
    main()
