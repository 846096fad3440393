"""One OpenAI-compatible endpoint, asked with patience and with one-line errors.

Rate limits, time-outs and failing servers are waited out; a wrong key, a wrong address or a page
of HTML are not, as waiting mends none of them. The key comes from ``OPENAI_API_KEY`` alone. It is
handed to the client, and is in no result, no message and no ``repr``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from actor_lens.errors import UserError

if TYPE_CHECKING:
    import openai

KEY_VARIABLE = "OPENAI_API_KEY"
# A reasoning model thinks before it answers, and its thoughts count as tokens of the answer.
REASONING_TOKENS = 4096
_REFUSED = ("max_tokens", "temperature")
FIRST_WAIT, LONGEST_BACKOFF = 1.0, 30.0
LONGEST_WAIT = 300.0
# These are about one request: what was to be judged is too long for the judge, or is filtered out.
_ABOUT_THE_REQUEST = ("context_length_exceeded", "content_filter", "string_above_max_length")
# Servers without such codes say it in words.
_TOO_LONG = "maximum context length"


class Stopped(Exception):
    """Another request failed for good, or the user interrupted."""


class Endpoint:
    """Asks for chat completions. Threads may ask at once."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 6,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        """Check the key and the address; nothing is sent yet.

        Args:
            base_url: Up to and without ``/chat/completions``; else ``OPENAI_BASE_URL``, else
                OpenAI's own.
            timeout: Of one request, in seconds.
            retries: How often a request that failed is sent again.
            wait: Called with the seconds to wait before that; tests need not wait.

        Raises:
            UserError: If the key is missing, the address is none, or ``openai`` is not installed.
        """
        given = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self.base_url = given.strip()
        self.stop = Event()
        self._timeout, self._retries = timeout, retries
        self._wait = wait or self._pause
        self._answered_once = self._reasons = False
        if not _is_web_address(self.base_url):
            raise UserError(
                f"judge endpoint '{self.shown_url}' is no http or https address; set "
                "OPENAI_BASE_URL, for instance to http://localhost:8000/v1"
            )
        _check_key()
        self._openai()

    @property
    def shown_url(self) -> str:
        """The address in one spelling: without user name, password, query or last slash."""
        try:
            parts = urlsplit(self.base_url)
        except ValueError:
            return "(not an address)"
        host = parts.netloc.rpartition("@")[2].lower()
        path = parts.path.rstrip("/")
        return parts._replace(netloc=host, path=path, query="", fragment="").geturl()

    @property
    def host(self) -> str:
        """Host and port, by which judges of one name are told apart."""
        return urlsplit(self.shown_url).netloc

    def complete(self, **request: Any) -> str | None:
        """The text of a completion; None where it has none or was cut short.

        A model that refuses ``max_tokens`` or ``temperature``, as reasoning models do, is asked
        from then on with ``max_completion_tokens`` and its own temperature.

        Args:
            request: Of ``chat.completions.create``.

        Raises:
            UserError: If the endpoint cannot be asked, or failed at every try.
            Stopped: If ``stop`` was set.
        """
        failure = ""
        for attempt in range(self._retries + 1):
            if self.stop.is_set():
                raise Stopped
            body, failure, wait = self._try(request)
            if not failure:
                self._answered_once = True
                return _text_of(body)
            if attempt < self._retries:
                self._wait(wait if wait is not None else _backoff(attempt))
        raise UserError(
            f"the judge at {self.shown_url} failed {self._retries + 1} times, the last with "
            f"{failure}; run again later: verdicts so far are kept"
        )

    def _pause(self, seconds: float) -> None:
        """Wait, or until another thread has failed for good."""
        self.stop.wait(seconds)

    def _try(self, request: dict[str, Any]) -> tuple[Any, str, float | None]:
        """Body, what failed if waiting may mend it, and how long the server says to wait."""
        openai = self._openai()
        asked = _for_reasoning(request) if self._reasons else request
        try:
            response = self._client.chat.completions.with_raw_response.create(**asked)
        except openai.APITimeoutError:
            return None, f"no answer in {self._timeout:g} s", None
        except openai.APIConnectionError as error:
            if not self._answered_once and "refused" in _chain(error):
                raise UserError(
                    f"nothing answers at {self.shown_url} (connection refused); start the judge's "
                    "server or set OPENAI_BASE_URL"
                ) from None
            return None, f"a broken connection ({type(error.__cause__).__name__})", None
        except openai.APIStatusError as error:
            if asked is request and _refuses_settings(error):
                self._reasons = True
                return self._try(request)
            return self._after_status(error)
        return self._body(response.http_response)

    def _after_status(self, error: openai.APIStatusError) -> tuple[Any, str, float | None]:
        status, code = error.status_code, getattr(error, "code", None)
        if status == 429 and code != "insufficient_quota":
            return None, "HTTP 429 (too many requests)", self._asked_wait(error.response.headers)
        if status >= 500 or status in (408, 409):
            return None, f"HTTP {status}", self._asked_wait(error.response.headers)
        if code in _ABOUT_THE_REQUEST or _TOO_LONG in _said(error.body).lower():
            return {}, "", None
        raise UserError(self._refusal(status, error)) from None

    def _refusal(self, status: int, error: openai.APIStatusError) -> str:
        where = f"the judge at {self.shown_url}"
        if status in (401, 403):
            return f"{where} rejects the key in {KEY_VARIABLE} (HTTP {status}); set a valid one"
        if status == 404:
            return (
                f"{where} knows no such model or path (HTTP 404); check the judge's model name and "
                "OPENAI_BASE_URL, which usually ends in /v1"
            )
        said = _masked(" ".join(_said(error.body).split()))[:160]
        return f"{where} refuses the request (HTTP {status}: {said or 'no reason given'})"

    def _asked_wait(self, headers: Any) -> float | None:
        wait = retry_after(headers.get("retry-after"))
        if wait is not None and wait > LONGEST_WAIT:
            raise UserError(
                f"the judge at {self.shown_url} asks to wait {wait:.0f} s; run again after that: "
                "verdicts so far are kept"
            )
        return wait

    def _body(self, response: Any) -> tuple[Any, str, float | None]:
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        text = response.text
        if kind == "text/html" or text.lstrip()[:1] == "<":
            raise UserError(
                f"{self.shown_url} answers with a web page (HTML), not as a judge; check "
                "OPENAI_BASE_URL, which usually ends in /v1, and any log-in page or proxy before it"
            )
        try:
            return json.loads(text), "", None
        except ValueError:
            return None, "malformed JSON", None

    @cached_property
    def _client(self) -> openai.OpenAI:
        client: openai.OpenAI = self._openai().OpenAI(
            api_key=os.environ[KEY_VARIABLE].strip(),
            base_url=self.base_url,
            timeout=self._timeout,
            max_retries=0,
        )
        return client

    @staticmethod
    def _openai() -> Any:
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "a language model as judge needs the openai package: "
                "pip install 'actor-lens[judge]'"
            ) from error
        return openai


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


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
    said = _said(error.body).lower()
    named = error.param in _REFUSED or any(f"'{name}'" in said for name in _REFUSED)
    return error.status_code == 400 and named and "support" in f"{error.code} {said}"


def _for_reasoning(request: dict[str, Any]) -> dict[str, Any]:
    """The same request without what reasoning models refuse, and with room for their thoughts."""
    kept = {name: value for name, value in request.items() if name not in _REFUSED}
    return {**kept, "max_completion_tokens": REASONING_TOKENS}


def retry_after(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, given as a number or as a date.

    Source: RFC 9110, section 10.2.3.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _backoff(attempt: int) -> float:
    return min(FIRST_WAIT * 2.0**attempt, LONGEST_BACKOFF)


def _text_of(body: Any) -> str | None:
    """The text of the first choice, if the body is a completion that ended by itself."""
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    ended = choice.get("finish_reason") in ("stop", "eos", None)
    return text if isinstance(text, str) and ended else None


def _chain(error: BaseException) -> str:
    parts = []
    at: BaseException | None = error
    while at is not None:
        parts.append(str(at).lower())
        at = at.__cause__ or at.__context__
    return " ".join(parts)


def _said(body: object) -> str:
    if isinstance(body, dict):
        return str(body.get("message") or body.get("detail") or "")
    return ""


def _masked(text: str) -> str:
    """Some servers repeat the key in their message."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return text.replace(key, "***") if key else text
