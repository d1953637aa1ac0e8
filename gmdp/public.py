"""All names that programs import from :mod:`gmdp`."""

from .broker.audit import AuditRecord, LogAudit
from .broker.broker import Broker
from .broker.deadletters import ForwardDeadLetters, LogDeadLetters
from .client.async_client import AsyncClient
from .client.client import Client
from .client.futures import Future
from .core.broker.decisions import DeadLetter
from .core.broker.options import BrokerOptions
from .core.states import State, StateChange
from .exceptions import (
    AuthenticationFailed,
    BindError,
    BrokerLost,
    BrokerShuttingDown,
    CallCancelled,
    CallError,
    ClosedError,
    ConfigurationError,
    HandlerFailed,
    HubNotRunning,
    MDPError,
    MessageTooLarge,
    NotAllowed,
    NoWorker,
    Overloaded,
    OwnerDied,
    RequestCancelled,
    RequestExpired,
    RequestRejected,
    RequestTimeout,
    StateError,
    StreamOverflow,
    StreamStalled,
    UnsupportedBroker,
    WorkerLost,
)
from .security import generate_keys, hash_password
from .version import __version__
from .worker.handlers import Handler
from .worker.request import Request
from .worker.worker import Worker

__all__ = [
    "AsyncClient",
    "AuditRecord",
    "AuthenticationFailed",
    "BindError",
    "Broker",
    "BrokerLost",
    "BrokerOptions",
    "BrokerShuttingDown",
    "CallCancelled",
    "CallError",
    "Client",
    "ClosedError",
    "ConfigurationError",
    "DeadLetter",
    "ForwardDeadLetters",
    "Future",
    "Handler",
    "HandlerFailed",
    "HubNotRunning",
    "LogAudit",
    "LogDeadLetters",
    "MDPError",
    "MessageTooLarge",
    "NoWorker",
    "NotAllowed",
    "Overloaded",
    "OwnerDied",
    "Request",
    "RequestCancelled",
    "RequestExpired",
    "RequestRejected",
    "RequestTimeout",
    "State",
    "StateChange",
    "StateError",
    "StreamOverflow",
    "StreamStalled",
    "UnsupportedBroker",
    "Worker",
    "WorkerLost",
    "__version__",
    "generate_keys",
    "hash_password",
]
