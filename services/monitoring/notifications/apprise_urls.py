"""What apprise may be asked to do: which of its kinds of URLs, and what they may not say."""

from __future__ import annotations

import re
from urllib.parse import unquote

from services.common.errors import InvalidArgument

MAX_URL_CHARS = 2_048
DEFAULT_SCHEMES = (
    "mailto,mailtos,slack,discord,workflow,workflows,gchat,webex,wxteams,tgram,pover,pbul,pagerduty,opsgenie,splunk,"
    "victorops,ilert,squadcast,signl4,pagertree,betterstack,incidentio,jira,zulip,sendgrid,mailgun,sparkpost,brevo,ses,"
    "sns,twilio,rockets,mmosts,matrixs,ntfys,gotifys,dingtalk,feishu,lark,line"
)
# What shows something on this machine or writes its logs; and what would post to any URL, as webhooks do, signed.
NEVER = {
    **dict.fromkeys(
        ("dbus", "qt", "kde", "glib", "gio", "gnome", "macosx", "windows", "blink1", "syslog"),
        "it tells the machine that this service runs on, and nobody else",
    ),
    **dict.fromkeys(("json", "jsons", "xml", "xmls", "form", "forms"), "a webhook does that, and signs what it sends"),
    **dict.fromkeys(("apprise", "apprises"), "it passes messages on to anywhere: name their receivers here"),
}
_SCHEME = re.compile(r"([a-z0-9]{1,32})://.", re.IGNORECASE)
# What would weaken a promise of ours (TLS verified, no redirects, one attempt, none that counts as arrived though it
# failed) or read a file of the server's.
_REFUSED_PARAMETERS = (
    "verify", "redirect", "retry", "wait", "store", "template", "keyfile", "subfile", "pgp", "pgppub", "pgpprv", "wkd",
    "optional",
)  # fmt: skip
# A `+` is a space to apprise, which it strips.
_PARAMETER = re.compile(rf"[?&;][\s+]*({'|'.join(_REFUSED_PARAMETERS)})[\s+]*=", re.IGNORECASE)


def read_schemes(text: str) -> frozenset[str]:
    """Read the schemes of a setting, separated by commas.

    Raises:
        ValueError: one is allowed nowhere; says why.
    """
    schemes = frozenset(part.strip().lower() for part in text.split(",") if part.strip())
    for scheme in sorted(schemes & NEVER.keys()):
        raise ValueError(f"{scheme} is allowed nowhere: {NEVER[scheme]}")
    return schemes


def scheme_of(url: str, allowed: frozenset[str], field: str) -> str:
    """Give a URL's scheme, having checked all of the URL that needs no apprise.

    Raises:
        InvalidArgument: INVALID_CHANNEL, URL_NOT_ALLOWED. The message names no more of it than scheme and parameter.
    """
    if not 0 < len(url) <= MAX_URL_CHARS or not url.isprintable():
        sentence = f"1 to {MAX_URL_CHARS} printable characters are allowed, got {len(url)}"
        raise InvalidArgument.field(field, sentence, reason="INVALID_CHANNEL")
    match = _SCHEME.match(url)
    if match is None:
        sentence = "it is no URL of apprise's: write one such as mailto://… or slack://…"
        raise InvalidArgument.field(field, sentence, reason="INVALID_CHANNEL")
    scheme = match[1].lower()
    if scheme not in allowed:
        why = NEVER.get(scheme, "the server's operator can allow it with PENSTOCK_APPRISE_SCHEMES")
        sentence = f"{scheme}:// is not allowed ({why}); allowed are {', '.join(sorted(allowed))}"
        raise InvalidArgument.field(field, sentence, reason="URL_NOT_ALLOWED")
    refused = _PARAMETER.search(unquote(url))
    if refused is not None:
        raise InvalidArgument.field(field, f"its parameter {refused[1]} is not allowed here", reason="URL_NOT_ALLOWED")
    return scheme
