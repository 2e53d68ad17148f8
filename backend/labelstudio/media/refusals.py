"""What to tell someone whose Label Studio refuses an image: which setting is missing or wrong."""

from __future__ import annotations

import httpx

from backend.errors import RemoteError
from backend.labelstudio.media.options import TOKEN_SETTING, URL_SETTING
from backend.labelstudio.media.sites import Site, is_loopback
from backend.labelstudio.media.tokens import is_refresh_token, read_claims


class Unauthorized(Exception):
    """Label Studio does not take the token, or there is none; another token may help."""

    def __init__(self, site: Site, happened: str) -> None:
        super().__init__(happened)
        self.site = site

    def explained(self) -> RemoteError:
        """The same for people, with what to do."""
        return RemoteError(f"Label Studio at {self.site.base} refuses it ({self}): {_advice(self.site)}")


def _advice(site: Site) -> str:
    if not site.token:
        return f"no token is known; set {URL_SETTING} to its address and {TOKEN_SETTING} to a personal access token"
    if is_refresh_token(site.token):
        return f"the personal access token's user may not read it; set {TOKEN_SETTING} to one of a member of the project"
    if read_claims(site.token):
        return f"the token is an access token, which ends after 5 minutes; set {TOKEN_SETTING} to a personal access token"
    return (
        "the legacy token is wrong or legacy tokens are disabled for the organization; "
        f"set {URL_SETTING} to its address and {TOKEN_SETTING} to a personal access token"
    )


def who(site: Site | None, url: httpx.URL) -> str:
    """The server as a message names it, with a hint where its address may be the cause."""
    if site is None:
        return url.host
    hint = f" (the address that it gives itself; if it is elsewhere, set {URL_SETTING})"
    return f"Label Studio at {site.base}{hint if is_loopback(site.base) else ''}"
