// Keeps the dashboard's page true: asks for the page itself every two seconds, and puts in the
// sections that changed. What a person has in hand (focus, opened details) stays.
"use strict";

const EVERY_MS = 2000;
const PATIENCE_MS = 8000;
const connection = document.getElementById("connection");
const freshness = document.getElementById("freshness");
const shown = new Map();  // as the server sent them: times are rewritten below

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

function putIn(fresh) {
  const main = document.getElementById("main");
  const wanted = sections(fresh);
  const there = sections(document);
  const focused = document.activeElement?.id;
  for (const [id, part] of there) {
    if (!wanted.has(id)) {
      part.remove();
    }
  }
  for (const [id, part] of wanted) {
    const html = part.outerHTML;
    if (there.has(id) && shown.get(id) === html) {
      continue;
    }
    shown.set(id, html);
    localTimes(part);
    const before = there.get(id);
    const refused = before?.querySelector("#refused");  // why a press was in vain is told once
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
    const answer = await fetch(document.body.dataset.address, {
      cache: "no-cache",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.headers.get("content-type")?.startsWith("text/html")) {
      putIn(new DOMParser().parseFromString(await answer.text(), "text/html"));
      freshness.textContent = `as of ${new Date().toLocaleTimeString()}`;
      warn("");
    } else {
      warn((await answer.json()).error);
    }
  } catch {
    warn(
      connection.textContent ||
        `The server has not answered since ${new Date().toLocaleTimeString()}. This page shows ` +
          "what was known then, and goes on by itself once the server is back.",
    );
  }
  setTimeout(refresh, EVERY_MS);
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
setTimeout(refresh, EVERY_MS);
