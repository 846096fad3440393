"""One OpenAI-compatible endpoint, asked with patience and with one-line errors.

The ``openai`` client waits out rate limits, time-outs and failing servers, as long as the server
asks for up to the client's own limit. A wrong key, a wrong address or a page of HTML are
errors at once, as waiting fixes none of them. The key comes from ``OPENAI_API_KEY`` alone. It is
handed to the client, and is in no result, no message and no ``repr``.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from actor_lens.errors import UserError, require
from actor_lens.text import one_line

if TYPE_CHECKING:
    import openai

KEY_VARIABLE = "OPENAI_API_KEY"
# A reasoning model thinks before it answers, and its thoughts count as tokens of the answer.
REASONING_TOKENS = 4096
_REFUSED_SETTINGS = ("max_tokens", "temperature")
# These are about one request: what was to be judged is too long for the judge, or is filtered out.
_ABOUT_THE_REQUEST = ("context_length_exceeded", "content_filter", "string_above_max_length")
# Servers without such codes say it in words.
_TOO_LONG = "maximum context length"
_PROBE_SECONDS = 5.0


class Endpoint:
    """Answers requests for chat completions, many at once."""

    def __init__(
        self, base_url: str | None = None, *, timeout: float = 60.0, retries: int = 6
    ) -> None:
        """Check the key and the address; nothing is sent yet.

        Args:
            base_url: Address up to and without ``/chat/completions``; else ``OPENAI_BASE_URL``,
                else OpenAI's own.
            timeout: Longest wait for the answer to one request, in seconds.
            retries: Greatest number of times that a request that failed is sent again.

        Raises:
            UserError: If the key is missing, the address is none, or ``openai`` is not installed.
        """
        address = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self.base_url = address.strip()
        self._timeout, self._retries = timeout, retries
        self._reasons = False
        self._parts()
        _check_key()
        _openai()

    @property
    def shown_url(self) -> str:
        """The address in one spelling: without user name, password, query or last slash."""
        parts = self._parts()
        host = parts.netloc.rpartition("@")[2].lower()
        path = parts.path.rstrip("/")
        return parts._replace(netloc=host, path=path, query="", fragment="").geturl()

    @property
    def host(self) -> str:
        """Host and port, which tell judges of one name apart."""
        return urlsplit(self.shown_url).netloc

    def client(self) -> openai.AsyncOpenAI:
        """A client of the endpoint, to be used and closed in one event loop."""
        client: openai.AsyncOpenAI = _openai().AsyncOpenAI(
            api_key=os.environ[KEY_VARIABLE].strip(),
            base_url=self.base_url,
            timeout=self._timeout,
            max_retries=self._retries,
        )
        return client

    def check_listening(self) -> None:
        """Find out whether a server is there at all; the client would retry for a while first.

        Raises:
            UserError: If the connection is refused. Other failures, and servers behind a proxy,
                are left to the first request.
        """
        parts = self._parts()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if getproxies().keys() - {"no"}:
            return
        try:
            socket.create_connection((parts.hostname or "", port), _PROBE_SECONDS).close()
        except ConnectionRefusedError:
            raise UserError(
                f"nothing answers at {self.shown_url} (connection refused); start the judge's "
                "server or set OPENAI_BASE_URL"
            ) from None
        except OSError:
            return

    async def complete(self, client: openai.AsyncOpenAI, **request: Any) -> str | None:
        """The text of a completion; None where it has none or was cut short.

        A model that refuses ``max_tokens`` or ``temperature``, as reasoning models do, is asked
        from then on with ``max_completion_tokens`` and its own temperature.

        Raises:
            UserError: If the endpoint cannot be asked, or failed at every try.
        """
        openai = _openai()
        settings = _for_reasoning(request) if self._reasons else request
        try:
            response = await client.chat.completions.with_raw_response.create(**settings)
        except openai.APITimeoutError:
            raise self._given_up(f"no answer in {self._timeout:g} s") from None
        except openai.APIConnectionError as error:
            reason = f"a broken connection ({type(error.__cause__).__name__})"
            raise self._given_up(reason) from None
        except openai.APIStatusError as error:
            if settings is request and _refuses_settings(error):
                self._reasons = True
                return await self.complete(client, **request)
            self._check_status(error)
            return None
        return self._text(response.http_response)

    def _parts(self) -> SplitResult:
        try:
            parts = urlsplit(self.base_url)
            _ = parts.port  # raises where it is none
        except ValueError:
            parts = SplitResult("", "", "", "", "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            # What stands before an @ may be a password, and a query may hold a key.
            shown = one_line(self.base_url.rpartition("@")[2].partition("?")[0], 100)
            raise UserError(
                f"judge endpoint '{shown}' is no http or https address; set OPENAI_BASE_URL, for "
                "instance to http://localhost:8000/v1"
            )
        return parts

    def _check_status(self, error: openai.APIStatusError) -> None:
        """Raise what is wrong with the endpoint; let pass what is about this one request."""
        status, code, message = error.status_code, error.code, _message(error.body)
        if code in _ABOUT_THE_REQUEST or _TOO_LONG in message.lower():
            return
        where = f"the judge at {self.shown_url}"
        if status in (401, 403):
            raise UserError(
                f"{where} rejects the key in {KEY_VARIABLE} (HTTP {status}); set a valid one"
            ) from None
        if status == 404:
            raise UserError(
                f"{where} knows no such model or path (HTTP 404); check the judge's model name and "
                "OPENAI_BASE_URL, which usually ends in /v1"
            ) from None
        if (status in (408, 409, 429) or status >= 500) and code != "insufficient_quota":
            reason = f"HTTP {status}{' (too many requests)' if status == 429 else ''}"
            wait = error.response.headers.get("retry-after", "")
            asks = f" and asks to wait {int(wait)} s" if wait.isdecimal() else ""
            raise self._given_up(reason + asks) from None
        raise UserError(
            f"{where} refuses the request (HTTP {status}: "
            f"{one_line(_without_key(message), 160) or 'no reason given'})"
        ) from None

    def _given_up(self, reason: str) -> UserError:
        return UserError(
            f"the judge at {self.shown_url} failed with {reason}, after up to {self._retries} "
            "retries; run again later: verdicts so far are kept"
        )

    def _text(self, response: Any) -> str | None:
        """The text of the first choice, if the body is a completion that ended by itself."""
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind == "text/html" or response.text.lstrip()[:1] == "<":
            raise UserError(
                f"{self.shown_url} answers with a web page (HTML), not as a judge; check "
                "OPENAI_BASE_URL, which usually ends in /v1, and any log-in page or proxy before it"
            )
        try:
            choice = json.loads(response.text)["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return None
        ended = choice.get("finish_reason") in ("stop", "eos", None)
        return text if isinstance(text, str) and ended else None


def _openai() -> Any:
    return require("openai", "judge", "a language model as judge")


def _check_key() -> None:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise UserError(
            f"the judge needs a key: set {KEY_VARIABLE} (any word for a local server that asks "
            "for none)"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"{KEY_VARIABLE} holds characters that no key has (letters with accents, line breaks "
            "or the like); copy the key again"
        )


def _refuses_settings(error: openai.APIStatusError) -> bool:
    """Whether a request was refused for how it asks, and not for what it says."""
    message = _message(error.body).lower()
    named = error.param in _REFUSED_SETTINGS or any(
        f"'{name}'" in message for name in _REFUSED_SETTINGS
    )
    return error.status_code == 400 and named and "support" in f"{error.code} {message}"


def _for_reasoning(request: dict[str, Any]) -> dict[str, Any]:
    """The same request without what reasoning models refuse, and with room for their thoughts."""
    kept = {name: value for name, value in request.items() if name not in _REFUSED_SETTINGS}
    return {**kept, "max_completion_tokens": REASONING_TOKENS}


def _message(body: object) -> str:
    if isinstance(body, dict):
        return str(body.get("message") or body.get("detail") or "")
    return ""


def _without_key(text: str) -> str:
    """The text without the key, which some servers repeat in their message."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return text.replace(key, "***") if key else text
