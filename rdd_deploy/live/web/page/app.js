"use strict";

const POLL_MS = 1000;
const RETRY_MS = 2000;

const byId = (id) => document.getElementById(id);
const stream = byId("stream");
let state = null;
let bundles = [];
let viewer = "";
let lost = false;
let missed = 0;
let shownClasses = null;
let wish = null;
let sending = null;
let dragging = false;
let timer = 0;

async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body;
}

/* The stream is an image that never ends. Browsers don't tell a page when it was cut, so the server is asked. */
function watch() {
  viewer = Array.from(crypto.getRandomValues(new Uint32Array(3)), (number) => number.toString(36)).join("");
  missed = 0;
  stream.src = "/stream?viewer=" + viewer;
}

function unwatch() {
  viewer = "";
  stream.removeAttribute("src");
  stream.hidden = true;
  byId("waiting").hidden = false;
}

stream.addEventListener("load", () => {
  stream.hidden = false;
  byId("waiting").hidden = true;
});

function tell(text) {
  byId("news").textContent = text;
}

function trouble(text) {
  const place = byId("trouble");
  if (place.textContent !== text) place.textContent = text;
}

async function poll() {
  clearTimeout(timer);
  let wait = POLL_MS;
  try {
    if (!bundles.length) listBundles(await ask("/api/bundles"));
    show(await ask("/api/status?viewer=" + viewer));
    if (lost) {
      lost = false;
      tell("connected again");
      listBundles(await ask("/api/bundles"));
      watch();
    }
  } catch (error) {
    lost = error instanceof TypeError;
    trouble(lost ? "The connection is lost; trying again" : error.message);
    wait = RETRY_MS;
  }
  if (!document.hidden) timer = setTimeout(poll, wait);
}

function listBundles(answer) {
  bundles = answer.bundles;
  byId("source").textContent = answer.source;
  document.title = answer.source + " – rdd_deploy live";
  const field = byId("bundles");
  field.querySelectorAll("label").forEach((label) => label.remove());
  for (const bundle of bundles) {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    const text = document.createElement("span");
    const facts = document.createElement("small");
    radio.type = "radio";
    radio.name = "bundle";
    radio.value = bundle.number;
    radio.setAttribute("aria-keyshortcuts", String(bundle.number));
    radio.addEventListener("change", () => change({ bundle: bundle.number }));
    text.textContent = bundle.number + "  " + bundle.name;
    facts.textContent = [bundle.backend, bundle.precision, bundle.device].join(" · ");
    text.append(facts);
    label.append(radio, text);
    field.append(label);
  }
  shownClasses = null;
}

function show(next) {
  const before = state;
  state = next;
  if (viewer && state.streaming === false) {
    if (++missed >= 3) watch();
  } else {
    missed = 0;
  }
  const full = viewer && state.streaming === false && state.viewers >= state.max_viewers;
  trouble(full ? "All " + state.max_viewers + " places are taken; the picture comes when somebody has left" : state.trouble);
  byId("waiting").textContent = full ? "No picture: too many viewers" : "Waiting for the first picture";

  const number = (value, digits, unit) => (value === null || value === undefined ? "–" : value.toFixed(digits) + unit);
  byId("fps").textContent = state.paused ? "paused" : number(state.fps, 1, "");
  byId("age").textContent = number(state.age_ms && state.age_ms.p50, 0, " ms");
  byId("age-high").textContent = number(state.age_ms && state.age_ms.p95, 0, " ms");
  byId("frames").textContent = String(state.frames);
  byId("drops").textContent = String(state.drops);
  byId("viewers").textContent = state.viewers + " of " + state.max_viewers;
  byId("miou-row").hidden = state.active.every((one) => one.miou_pct === null);
  byId("miou").textContent = state.active.map((one) => number(one.miou_pct, 1, " %")).join(" | ");
  byId("differ-row").hidden = state.disagreement_pct === null;
  byId("differ").textContent = number(state.disagreement_pct, 1, " %");

  press("pause", state.paused);
  press("split", state.split);
  byId("split").disabled = !state.can_split;
  byId("split").title = state.can_split ? "" : "needs a second bundle of the same classes";
  if (!dragging && !wish) byId("opacity").value = Math.round(100 * state.opacity);
  showOpacity();
  for (const radio of document.querySelectorAll("input[name=bundle]")) radio.checked = Number(radio.value) === state.active[0].bundle;
  byId("halves").hidden = !state.split;
  if (state.split) {
    byId("left").textContent = "Left: " + state.active[0].bundle + " " + state.active[0].name;
    byId("right").textContent = "Right: " + state.active[1].bundle + " " + state.active[1].name;
  }
  showClasses();
  if (before) {
    if (before.paused !== state.paused) tell(state.paused ? "paused" : "goes on");
    if (before.split !== state.split) tell(state.split ? "split view" : "split view off");
    if (before.active[0].bundle !== state.active[0].bundle) tell("bundle " + state.active[0].bundle + ": " + state.active[0].name);
  }
}

function press(id, on) {
  byId(id).setAttribute("aria-pressed", String(on));
}

function showOpacity() {
  const text = byId("opacity").value + " %";
  byId("opacity-value").textContent = text;
  byId("opacity").setAttribute("aria-valuetext", text);
}

function showClasses() {
  const first = bundles[state.active[0].bundle - 1];
  if (!first) return;
  const body = byId("classes");
  const key = first.number + "|" + state.split;
  if (shownClasses !== key) {
    shownClasses = key;
    body.replaceChildren(
      ...first.classes.map((one) => {
        const row = document.createElement("tr");
        const name = document.createElement("th");
        const swatch = document.createElement("i");
        name.scope = "row";
        swatch.style.backgroundColor = one.colour;
        name.append(swatch, one.name);
        row.append(name, document.createElement("td"));
        if (state.split) row.append(document.createElement("td"));
        return row;
      }),
    );
    byId("share-title").textContent = state.split ? "Left" : "Share";
    byId("second-title").hidden = !state.split;
  }
  first.classes.forEach((one, index) => {
    state.active.forEach((bundle, column) => {
      const cell = body.rows[index].cells[1 + column];
      const share = bundle.shares_pct ? bundle.shares_pct[one.name] : undefined;
      if (!cell) return;
      cell.textContent = share === undefined ? "–" : share.toFixed(1) + " %";
      cell.style.setProperty("--share", share === undefined ? 0 : share);
    });
  });
}

/* Wishes that come while one is on its way are sent together after it: a slider makes many. */
async function change(more) {
  wish = { ...wish, ...more };
  if (sending) return;
  while (wish) {
    sending = wish;
    wish = null;
    const body = JSON.stringify(sending);
    try {
      show(await ask("/api/view?viewer=" + viewer, { method: "POST", headers: { "Content-Type": "application/json" }, body }));
    } catch (error) {
      trouble(error instanceof TypeError ? "The connection is lost; trying again" : error.message);
    }
  }
  sending = null;
}

/* The other way round from what is asked for last, or from what is so. */
function toggle(name) {
  change({ [name]: !{ ...state, ...sending, ...wish }[name] });
}

function setOpacity(percent) {
  byId("opacity").value = Math.min(100, Math.max(0, percent));
  showOpacity();
  change({ opacity: Number(byId("opacity").value) / 100 });
}

byId("pause").addEventListener("click", () => state && toggle("paused"));
byId("split").addEventListener("click", () => state && toggle("split"));
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("opacity").addEventListener("input", () => {
  dragging = true;
  setOpacity(Number(byId("opacity").value));
});
byId("opacity").addEventListener("change", () => {
  dragging = false;
});

const useKeys = byId("use-keys");
try {
  useKeys.checked = localStorage.getItem("keys") !== "off";
  useKeys.addEventListener("change", () => localStorage.setItem("keys", useKeys.checked ? "on" : "off"));
} catch (error) {
  /* no storage in this browser: the choice lasts as long as the page */
}

document.addEventListener("keydown", (event) => {
  if (!state || !useKeys.checked || event.ctrlKey || event.metaKey || event.altKey || event.repeat || byId("keys").open) return;
  const within = event.target.closest("button, a, input");
  if (event.key === " ") {
    if (within) return; /* it presses what has the focus */
    toggle("paused");
  } else if (/^[1-9]$/.test(event.key)) {
    change({ bundle: Number(event.key) });
  } else if (event.key === "+" || event.key === "=") {
    setOpacity(Number(byId("opacity").value) + 10);
  } else if (event.key === "-" || event.key === "_") {
    setOpacity(Number(byId("opacity").value) - 10);
  } else if (event.key === "v" || event.key === "V") {
    if (state.can_split || state.split) toggle("split");
    else tell("split view needs a second bundle of the same classes");
  } else if (event.key === "s" || event.key === "S") {
    byId("png").click();
    tell("snapshot");
  } else if (event.key === "h" || event.key === "H") {
    byId("keys").showModal();
  } else {
    return;
  }
  event.preventDefault();
});

/* A page that nobody sees costs the device nothing. */
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    unwatch();
  } else {
    watch();
    poll();
  }
});

if (!document.hidden) watch();
poll();
