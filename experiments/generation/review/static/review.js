// The review page: the switch of the marks, and ratings that are saved as they are given. scan.js draws the scan.
"use strict";

const page = document.body;
const cards = [...document.querySelectorAll(".card.generated")];
const saved = document.getElementById("saved");

// --- time: what the case lay open in a visible page ---------------------------------------------------------------
let shownSince = document.hidden ? null : performance.now();
let shownMs = 0;

function seconds() {
  return (shownMs + (shownSince === null ? 0 : performance.now() - shownSince)) / 1000;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden && shownSince !== null) {
    shownMs += performance.now() - shownSince;
    shownSince = null;
  } else if (!document.hidden && shownSince === null) {
    shownSince = performance.now();
  }
});

// --- marks: shown when every report of the kidney is rated, so that the reader judges first. A rating that is changed
// afterwards keeps that they were seen -----------------------------------------------------------------------------
const marks = document.getElementById("marks");
const who = document.querySelector(".who span").textContent;
const place = `${page.dataset.review} ${who} ${page.dataset.case}`; // ratings of another review are not mixed in
const seenKey = `marks-seen ${place}`;
let marksSeen = sessionStorage.getItem(seenKey) === "1";

function showMarks() {
  marks.disabled = !cards.every(complete);
  const shown = marks.checked && !marks.disabled;
  document.getElementById("marks-when").hidden = !marks.disabled;
  page.classList.toggle("unmarked", !shown);
  for (const mark of document.querySelectorAll(".report mark")) {
    if (mark.title) mark.dataset.title = mark.title;
    mark.title = shown ? mark.dataset.title : "";
  }
  if (shown) {
    marksSeen = true;
    sessionStorage.setItem(seenKey, "1");
  }
}

marks.checked = localStorage.getItem("marks") !== "off";
marks.addEventListener("change", () => {
  localStorage.setItem("marks", marks.checked ? "on" : "off");
  showMarks();
});
showMarks();

// --- ratings: one request at a time, in the order in which they were given -----------------------------------------
let queue = Promise.resolve(true);
let waiting = 0;
const timers = new Map();
const unsaved = new Set();

function chosen(card, name) {
  const input = card.querySelector(`input[name=${name}]:checked`);
  return input === null ? null : input.value;
}

function given(card) {
  const quality = chosen(card, "quality");
  return {
    case: Number(page.dataset.case),
    letter: card.dataset.letter,
    quality: quality === null ? null : Number(quality),
    errors: chosen(card, "errors") ?? "",
    comment: card.querySelector("textarea").value,
    seconds: Number(card.dataset.seconds) + seconds(),
    marks_visible: marksSeen || card.dataset.seen === "1",
  };
}

function complete(card) {
  return chosen(card, "quality") !== null && chosen(card, "errors") !== null;
}

function tell(text, bad) {
  saved.textContent = text;
  saved.classList.toggle("problem", bad);
  saved.setAttribute("role", bad ? "alert" : "status");
}

function label(card) {
  const half = chosen(card, "quality") !== null || chosen(card, "errors") !== null;
  card.querySelector(".state").textContent = complete(card) ? "rated ✓" : half ? "half rated" : "not rated";
  card.classList.toggle("complete", complete(card));
}

// What is not confirmed yet is also kept by the browser: for a server that stopped, and for a page that is opened anew
// before the server has heard of the last words.
function draftKey(card) {
  return `draft ${place} ${card.dataset.letter}`;
}

function restore(card) {
  const draft = JSON.parse(sessionStorage.getItem(draftKey(card)) ?? "null");
  if (draft === null) return;
  if (draft.quality !== null) choose(card, "quality", draft.quality);
  if (draft.errors !== "") choose(card, "errors", draft.errors);
  card.querySelector("textarea").value = draft.comment;
  card.dataset.seconds = Math.max(draft.seconds, Number(card.dataset.seconds));
  if (draft.marks_visible) card.dataset.seen = "1";
  save(card);
}

function choose(card, name, value) {
  card.querySelector(`input[name=${name}][value="${value}"]`).checked = true;
}

async function send(card, body) {
  const draft = JSON.stringify(body);
  try {
    const answer = await fetch(page.dataset.rate, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Review-Token": page.dataset.token },
      body: draft,
      keepalive: true,
    });
    if (!answer.ok) throw new Error(await answer.text());
    const state = await answer.json();
    if (sessionStorage.getItem(draftKey(card)) === draft) sessionStorage.removeItem(draftKey(card));
    document.getElementById("rated").textContent = `${state.rated} of ${state.of} rated`;
    document.getElementById("progress").value = state.rated;
    return true;
  } catch (error) {
    unsaved.add(card);
    const cause = error instanceof TypeError ? "The server does not answer; start it again and open this page anew." : error.message;
    tell(`Report ${card.dataset.letter} is NOT saved. ${cause}`, true);
    return false;
  }
}

function save(card) {
  clearTimeout(timers.get(card));
  timers.delete(card);
  label(card);
  unsaved.delete(card);
  const body = given(card); // before the marks are shown: the last rating of a kidney was given without them
  showMarks();
  sessionStorage.setItem(draftKey(card), JSON.stringify(body));
  waiting += 1;
  queue = queue.then(() => send(card, body)).then((fine) => {
    waiting -= 1;
    if (fine && waiting === 0 && unsaved.size === 0) tell("Saved", false);
    return fine;
  });
  return queue;
}

function flush() {
  for (const card of [...timers.keys()]) save(card);
  return queue;
}

async function leave(url) {
  await flush();
  if (unsaved.size === 0) location.assign(url);
}

for (const card of cards) {
  label(card);
  restore(card);
  card.addEventListener("change", (event) => {
    if (event.target.type === "radio") save(card);
  });
  const comment = card.querySelector("textarea");
  comment.addEventListener("input", () => {
    sessionStorage.setItem(draftKey(card), JSON.stringify(given(card)));
    clearTimeout(timers.get(card));
    timers.set(card, setTimeout(() => save(card), 700));
  });
  comment.addEventListener("blur", () => timers.has(card) && save(card));
  card.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  card.addEventListener("focusin", () => frame(card));
  card.addEventListener("pointerdown", () => frame(card));
}

for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    leave(link.href);
  });
}
window.addEventListener("pagehide", flush);
window.addEventListener("beforeunload", (event) => {
  flush();
  if (unsaved.size > 0) event.preventDefault();
});

// --- keys: they answer for the framed report -----------------------------------------------------------------------
let framed = cards.find((card) => !complete(card)) ?? cards[0];

function frame(card) {
  framed = card;
  for (const other of cards) other.classList.toggle("framed", other === card);
}

function goTo(card) {
  card.querySelector("h2").focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
  frame(card);
}

function answer(name, value) {
  choose(framed, name, value);
  save(framed);
}

function goOn() {
  const behind = [...cards.slice(cards.indexOf(framed) + 1), ...cards];
  const open = behind.find((card) => !complete(card));
  if (open) goTo(open);
  else leave(document.getElementById("open").href);
}

const ERRORS = { 7: "none", 8: "minor", 9: "major" };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.tagName === "TEXTAREA") {
    if (event.key === "Escape") framed.querySelector("h2").focus();
    return;
  }
  if (event.target.tagName === "SELECT") return;
  const letter = cards.find((card) => event.shiftKey && card.dataset.letter === event.key);
  if (letter) goTo(letter);
  else if (event.key >= "1" && event.key <= "5") answer("quality", event.key);
  else if (event.key in ERRORS) answer("errors", ERRORS[event.key]);
  else if (event.key === "Enter" && !["A", "BUTTON"].includes(event.target.tagName)) goOn();
  else if (event.key === "m") marks.click();
  else if (event.key === "w" && scanWindow) nextWindow();
  else if (["+", "=", "-"].includes(event.key) && zoom) zoomBy(event.key === "-" ? -1 : 1);
  else if (event.key === "c") framed.querySelector("textarea").focus();
  else if (event.key === "n") leave(document.getElementById("open").href);
  else if (event.key === "p" && document.getElementById("previous")) leave(document.getElementById("previous").href);
  else return;
  event.preventDefault();
});
frame(framed);
showMarks(); // once more: drafts of this browser may have completed the kidney
