"""Tells a missing network from every other failure of a download, in seconds.

huggingface_hub retries for half a minute per file before it gives up; one request with a short
time limit says the same.
"""

from __future__ import annotations

import errno
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevit.errors import EnvironmentError_

TIMEOUT_S = 5.0
OTHER_WEIGHTS = (
    "--weights FILE gives a checkpoint you have; --no-pretrained builds the model with random "
    "weights, for speed and plumbing; or connect and try again."
)
# By name, so that neither requests nor httpx (whichever the hub's client uses) is imported.
_OFFLINE_NAMES = frozenset(
    (
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectError",
        "ConnectTimeout",
        "ReadTimeout",
        "ReadError",
        "PoolTimeout",
        "RemoteProtocolError",
        "ProxyError",
        "SSLError",
        "NetworkError",
        "TransportError",
    )
)
_OFFLINE = (ConnectionError, TimeoutError)
_OFFLINE_ERRNOS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ETIMEDOUT)


def ways_out(download: str) -> str:
    """Return every way to weights without a network here.

    Args:
        download: What to download where, to follow the word "download".
    """
    return f"{OTHER_WEIGHTS} From a machine with a network: download {download}."


def hub_way_out(repository: str) -> str:
    """Return `ways_out` for a repository of the hub (``owner/name@revision``)."""
    from huggingface_hub import constants

    name, _, revision = repository.partition("@")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return ways_out(f"with `{command}` and copy its cache to {constants.HF_HUB_CACHE} here")


def hub_failure() -> str | None:
    """Ask the Hugging Face hub for one header through its own client (proxies, mirrors).

    Returns:
        Why it can't be reached, or None when it answers.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception as error:  # which classes there are depends on the client's version
        if is_offline(error):
            return _text_of(error)
        raise
    return None


def url_failure(url: str) -> str | None:
    """Ask for the header of a file; an answer that refuses it is an answer."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as answer:
        answer.close()
        return None
    except (urllib.error.URLError, OSError) as error:
        return _text_of(error)


def is_offline(error: BaseException) -> bool:
    """Return whether a failure to connect is among the causes of this error."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & _OFFLINE_NAMES or isinstance(cause, _OFFLINE):
            return True
        if isinstance(cause, urllib.error.URLError) and not hasattr(cause, "code"):
            return True
        if isinstance(cause, OSError) and cause.errno in _OFFLINE_ERRNOS:
            return True
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return False


def no_network(name: str, why: str, try_next: str = OTHER_WEIGHTS) -> EnvironmentError_:
    """Return the error for weights that are neither here nor reachable (EV152)."""
    return EnvironmentError_(
        "EV152",
        "The weights are not on this machine and the network can't be reached.",
        where=name,
        why=why,
        try_next=try_next,
    )


@contextmanager
def downloads(name: str, try_next: str = OTHER_WEIGHTS) -> Iterator[None]:
    """Turn a lost connection, a refusal and a full disk inside the block into errors of ours.

    Raises:
        EnvironmentError_: No connection (EV152), refused (EV161) or no space left (EV162).
    """
    try:
        yield
    except Exception as error:  # every library has its own classes; others are raised again
        status = _refusal(error)
        if status:
            raise EnvironmentError_(
                "EV161",
                "The server refused the weights.",
                where=name,
                why=status,
                try_next="Check the name, and whether the weights need a login.",
            ) from error
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise EnvironmentError_(
                "EV162",
                "No space is left to store the weights.",
                where=str(Path.home()),
                why=_text_of(error),
                try_next="Free some space there, or give the weights as a file: --weights FILE.",
            ) from error
        if is_offline(error):
            raise no_network(name, _text_of(error), try_next) from error
        raise


def _text_of(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _refusal(error: BaseException | None) -> str:
    """Return the server's answer (such as 404) when it is among the causes."""
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, urllib.error.HTTPError) or "HfHubHTTPError" in names:
            return _text_of(error)
        error = error.__cause__ or error.__context__
    return ""
