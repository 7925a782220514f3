"""Create accounts in Label Studio with its sign-up form, as annotators do."""

from __future__ import annotations

import httpx

PASSWORD = "a-long-password"
TIMEOUT_S = 240.0


def invite_link(url: str, api_key: str) -> str:
    """Return the path of the link that a team lead sends to annotators."""
    headers = {"Authorization": f"Token {api_key}"}
    response = httpx.get(f"{url}/api/invite", headers=headers, timeout=TIMEOUT_S)
    return str(response.raise_for_status().json()["invite_url"])


def sign_up(url: str, path: str, email: str) -> httpx.Response:
    """Send the sign-up form; return the response, which has status 302 if it was accepted."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as browser:
        browser.get(path)
        return _send_form(browser, path, email)


def log_in(url: str, email: str) -> tuple[int, str]:
    """Log in with an account; return its user id and access token."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as browser:
        browser.get("/user/login/")
        _send_form(browser, "/user/login/", email)
        token = browser.get("/api/current-user/token").raise_for_status().json()["token"]
        who = browser.get("/api/current-user/whoami").raise_for_status().json()
        return int(who["id"]), str(token)


def _send_form(browser: httpx.Client, path: str, email: str) -> httpx.Response:
    form = {
        "csrfmiddlewaretoken": browser.cookies.get("csrftoken", ""),
        "email": email,
        "password": PASSWORD,
    }
    return browser.post(path, data=form)
