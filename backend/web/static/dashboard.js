// Keeps the dashboard up to date: fetches the page itself every two seconds and replaces the
// sections that changed. Focus, opened details and scroll positions are kept.
"use strict";

const REFRESH_MS = 2000;
const TIMEOUT_MS = 8000;
const connection = document.getElementById("connection");
const freshness = document.getElementById("freshness");
const shown = new Map();  // HTML by section id, as the server sent it, before localTimes

function sections(page) {
  return new Map([...page.querySelectorAll("header, main > section")].map((part) => [part.id, part]));
}

function localTimes(part) {
  for (const time of part.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) {
      time.textContent = moment.toLocaleString();
    }
  }
}

function update(fresh) {
  const main = document.getElementById("main");
  const wanted = sections(fresh);
  const current = sections(document);
  const focused = document.activeElement?.id;
  for (const [id, part] of current) {
    if (!wanted.has(id)) {
      part.remove();
    }
  }
  for (const [id, part] of wanted) {
    const html = part.outerHTML;
    if (current.has(id) && shown.get(id) === html) {
      continue;
    }
    shown.set(id, html);
    localTimes(part);
    const before = current.get(id);
    const refused = before?.querySelector("#refused");  // the server sends it only once
    if (refused) {
      part.prepend(refused);
    }
    for (const details of before?.querySelectorAll("details[open]") ?? []) {
      part.querySelector(`#${CSS.escape(details.id)}`)?.setAttribute("open", "");
    }
    if (before) {
      const scrolled = [...before.querySelectorAll(".scroll")].map((box) => [box.id, box.scrollLeft]);
      before.replaceWith(part);
      for (const [box, left] of scrolled) {
        document.getElementById(box)?.scrollTo({ left });
      }
    } else {
      main.append(part);
    }
  }
  document.title = fresh.title;
  if (focused && document.activeElement?.id !== focused) {
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
}

function warn(text) {
  if (connection.textContent !== text) {
    connection.textContent = text;
    document.body.classList.toggle("stale", text !== "");
  }
}

async function refresh() {
  try {
    const response = await fetch(document.body.dataset.address, {
      cache: "no-cache",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (response.headers.get("content-type")?.startsWith("text/html")) {
      update(new DOMParser().parseFromString(await response.text(), "text/html"));
      freshness.textContent = `as of ${new Date().toLocaleTimeString()}`;
      warn("");
    } else {
      warn((await response.json()).error);
    }
  } catch {
    warn(
      connection.textContent ||
        `The server has not answered since ${new Date().toLocaleTimeString()}. This page shows ` +
          "the last known state and will update once the server is back.",
    );
  }
  setTimeout(refresh, REFRESH_MS);
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) {
    event.preventDefault();
  }
});

for (const [id, part] of sections(document)) {
  shown.set(id, part.outerHTML);
  localTimes(part);
}
setTimeout(refresh, REFRESH_MS);
