"use strict";
// The gallery's state is the URL's fragment, #sort=iou-up&kind=part&class=3, so that a view can be linked to.
const section = document.querySelector("#pictures");
const gallery = section.querySelector(".gallery");
const controls = section.querySelector(".controls");
const dialog = section.querySelector("dialog");
const cards = [...gallery.children];
const usual = controls.sort.value;

function numbers(card) {
  const found = { gap: Number(card.dataset.gap), probability: Number(card.dataset.probability) };
  card.dataset.iou.split(" ").forEach((iou, run) => { found[run ? `iou${run}` : "iou"] = Number(iou); });
  return found;
}
const known = new Map(cards.map((card, place) => [card, { ...numbers(card), place }]));

function choose(select, value, otherwise) {
  select.value = value ?? otherwise;
  if (select.selectedIndex < 0) select.value = otherwise;
}

function show() {
  const asked = new URLSearchParams(location.hash.slice(1));
  choose(controls.sort, asked.get("sort"), usual);
  choose(controls.class, asked.get("class"), "");
  const buttons = [...controls.querySelectorAll("[data-kind]")];
  const pressed = buttons.find((button) => button.dataset.kind === asked.get("kind")) ?? buttons[0];
  for (const button of buttons) button.setAttribute("aria-pressed", button === pressed);
  if (controls.heat) controls.heat.checked = asked.get("heat") !== "off";
  section.classList.toggle("cold", asked.get("heat") === "off");

  const [name, up] = controls.sort.value.split("-");
  const sign = up ? 1 : -1;
  cards.sort((a, b) => sign * (known.get(a)[name] - known.get(b)[name]) || known.get(a).place - known.get(b).place);
  let shown = 0;
  for (const card of cards) {
    const { kind, class: label } = card.dataset;
    card.hidden = (pressed.dataset.kind && kind !== pressed.dataset.kind) || (controls.class.value && label !== controls.class.value);
    shown += !card.hidden;
  }
  gallery.append(...cards);
  controls.querySelector("output").value = `${shown} of ${cards.length} shown`;
  section.querySelector(".nothing").hidden = shown > 0;
}

function ask(name, value) {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (value) asked.set(name, value); else asked.delete(name);
  history.replaceState(null, "", `#${asked}`);
  show();
}

function enlarge(card) {
  const copy = card.cloneNode(true);
  copy.hidden = false;
  copy.querySelector(".frame").removeAttribute("tabindex");
  dialog.querySelector("ul").replaceChildren(copy);
  dialog.showModal();
}

for (const card of section.querySelectorAll(".card")) {
  const frame = card.querySelector(".frame");
  frame.tabIndex = 0;
  frame.setAttribute("role", "button");
  frame.setAttribute("aria-label", `enlarge ${card.querySelector("small").textContent}`);
  frame.addEventListener("click", () => enlarge(card));
  frame.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(card); }
  });
}
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("click", (event) => {
  const button = event.target.closest("[data-kind]");
  if (button) ask("kind", button.dataset.kind);
});
controls.addEventListener("change", (event) => {
  const { name, value, checked } = event.target;
  ask(name, name === "heat" ? (checked ? "" : "off") : value);
});
addEventListener("hashchange", show);
controls.hidden = false;
show();
