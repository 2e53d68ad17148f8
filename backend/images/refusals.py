"""What to tell someone whose image a server refuses: whether the address, the token or a setting is wrong."""

from __future__ import annotations

import httpx

from backend.images.options import ROOTS_SETTING, TOKEN_SETTING, URL_SETTING
from backend.images.sites import Site, is_loopback
from backend.images.tokens import is_refresh_token, read_claims
from backend.values.errors import ImageError, MaskloomError, RemoteError


class Unauthorized(Exception):
    """Label Studio does not take the token, or there is none; another token may help."""

    def __init__(self, site: Site, happened: str, status: int) -> None:
        super().__init__(happened)
        self.site = site
        self.status = status

    def explained(self) -> RemoteError:
        """The same for people, with what to do."""
        return RemoteError(f"Label Studio at {self.site.base} refuses it ({self}): {_advice(self.site)}", self.status)


def refusal(status: int, site: Site | None, url: httpx.URL) -> MaskloomError | Unauthorized:
    """What an answer with this status means; ``site`` where it came from Label Studio."""
    if status in (401, 403):
        if site:
            return Unauthorized(site, f"it answered {status}", status)
        return ImageError(f"{who(site, url)} refuses it ({status}); Maskloom sends no credentials to other hosts")
    if status in (404, 410):
        hint = f"; a file on this machine is read only under {ROOTS_SETTING}" if site else ""
        return ImageError(f"{who(site, url)} has no such file ({status}){hint}")
    if status >= 500:
        return RemoteError(failure(status, site, url), status)
    return ImageError(f"{who(site, url)} answered {status}")


def failure(status: int, site: Site | None, url: httpx.URL) -> str:
    """What a server says that cannot answer now; Label Studio 1.23 answers 500 for an upload that it does not know."""
    hint = ", as it also does for an upload that was deleted" if site and status == 500 and "/data/upload/" in url.path else ""
    return f"{who(site, url)} answered {status}{hint}"


def who(site: Site | None, url: httpx.URL) -> str:
    """The server as a message names it, with a hint where its address may be the cause."""
    if site is None:
        return url.host
    if is_loopback(site.base):
        return f"Label Studio at {site.base} (if it runs on another machine, set {URL_SETTING})"
    return f"Label Studio at {site.base}"


def _advice(site: Site) -> str:
    set_both = f"set {URL_SETTING} to its address and {TOKEN_SETTING} to a personal access token from its account settings"
    if not site.token:
        return f"no token is known for it; {set_both}"
    if is_refresh_token(site.token):
        return f"the user of the personal access token may not read it; {set_both} of a member of the project"
    if read_claims(site.token):
        return f"the token is an access token, which ends after 5 minutes; {set_both}"
    return f"the legacy token is wrong, or legacy tokens are disabled there; {set_both}"
