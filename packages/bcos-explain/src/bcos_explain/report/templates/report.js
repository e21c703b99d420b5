"use strict";
// Filters, sortable tables and enlarged pictures. Without it everything can still be read.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- tables: a click on a heading sorts by its column; the last rows are those without a value

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });

  const cellValue = (row, column) => {
    const cell = row.cells[column];
    if ("value" in cell.dataset) return cell.dataset.value ? Number(cell.dataset.value) : null;
    return cell.textContent.trim() || null;
  };

  function sortTable(table, heading) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: cellValue(row, heading.cellIndex) }));
    const numbers = rows.some(({ value }) => typeof value === "number");
    const before = heading.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : numbers; // numbers: the largest first
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    rows.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
      return descending ? compare(b.value, a.value) : compare(a.value, b.value);
    });
    body.append(...rows.map(({ row }) => row));
  }

  for (const table of all("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      if ("fixed" in heading.dataset) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortTable(table, heading));
      heading.append(button);
    }
  }

  // ---- gallery: the form says what is shown; the address keeps it

  const form = document.querySelector(".filters");
  const gallery = document.querySelector(".gallery");
  const shots = gallery ? all(".shot", gallery) : [];
  const KEYS = ["reason", "class", "predicted", "right", "confidence", "sort", "text"];

  function fits(shot) {
    const { elements } = form;
    return (
      ["reason", "class", "predicted", "right"].every((key) => !elements[key].value || shot.dataset[key] === elements[key].value) &&
      Number(shot.dataset.confidence) * 100 >= Number(elements.confidence.value) &&
      elements.text.value.toLowerCase().split(/\s+/).every((word) => shot.dataset.text.toLowerCase().includes(word))
    );
  }

  function show() {
    let shown = 0;
    for (const shot of shots) {
      shot.hidden = !fits(shot);
      shown += !shot.hidden;
    }
    form.elements.shown.value = `${shown} of ${shots.length}`;
    form.elements.least.value = `${form.elements.confidence.value} %`;
    document.querySelector(".none-left").hidden = shown > 0;
    const [key, direction] = form.elements.sort.value.split("-");
    const sign = direction === "down" ? -1 : 1;
    const order = key ? [...shots].sort((a, b) => sign * (a.dataset[key] - b.dataset[key])) : shots;
    gallery.append(...order);
  }

  function toAddress() {
    const state = new URLSearchParams();
    for (const key of KEYS) {
      const { value } = form.elements[key];
      if (key === "confidence" ? value !== "0" : value) state.set(key, key === "confidence" ? value / 100 : value);
    }
    history.replaceState(null, "", `#${state.size ? state : "gallery"}`);
  }

  function fromAddress() {
    if (!location.hash.includes("=")) return;
    const state = new URLSearchParams(location.hash.slice(1));
    for (const key of KEYS) {
      const value = state.get(key) ?? "";
      form.elements[key].value = key === "confidence" ? Math.round(value * 100) || 0 : value;
      if (form.elements[key].selectedIndex === -1) form.elements[key].value = ""; // no such class
    }
    show();
    document.getElementById("gallery").scrollIntoView({ behavior: "instant" });
  }

  if (form) {
    form.hidden = false;
    const changed = () => {
      show();
      toAddress();
    };
    form.addEventListener("input", changed);
    form.elements.all.addEventListener("click", () => {
      for (const key of KEYS) form.elements[key].value = key === "confidence" ? 0 : "";
      changed();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("hashchange", fromAddress);
    fromAddress();
  }

  // ---- enlarged pictures

  const box = document.getElementById("lightbox");
  let current = null;

  const visible = () => all("figure:not([hidden]) img", current.closest("section"));

  function thumb(image) {
    const button = document.createElement("button");
    const small = document.createElement("img");
    button.type = "button";
    button.setAttribute("aria-label", image.alt);
    if (image === current) button.setAttribute("aria-current", "true");
    small.src = image.src;
    small.alt = "";
    small.className = image.classList.contains("pixelated") ? "pixelated" : "";
    button.append(small);
    button.addEventListener("click", () => enlarge(image));
    return button;
  }

  function enlarge(image) {
    current = image;
    const figure = image.closest("figure");
    const pictures = visible(); // of the same section
    const large = box.querySelector(".large");
    large.src = image.src;
    large.alt = image.alt;
    large.className = `large ${image.className}`;
    large.style.setProperty("--aspect", image.getAttribute("width") / image.getAttribute("height"));
    const receipt = figure.querySelector("summary");
    const parts = [figure.querySelector(".verdict"), receipt].filter(Boolean).map((part) => part.textContent.trim());
    const label = image.dataset.note ? `${image.dataset.label} (${image.dataset.note})` : image.dataset.label;
    box.querySelector(".caption").textContent = [label, ...parts].join(" · ");
    box.querySelector(".position").textContent = `${pictures.indexOf(image) + 1} / ${pictures.length}`;
    box.querySelector(".thumbs").replaceChildren(...all("img", figure).map(thumb));
    if (!box.open) box.showModal();
  }

  function step(by) {
    const pictures = visible();
    enlarge(pictures[(pictures.indexOf(current) + by + pictures.length) % pictures.length]);
  }

  function stepFigure(by) {
    const figures = [...new Set(visible().map((image) => image.closest("figure")))];
    const here = current.closest("figure");
    const there = figures[(figures.indexOf(here) + by + figures.length) % figures.length];
    const others = all("img", there);
    enlarge(others[Math.min(all("img", here).indexOf(current), others.length - 1)]);
  }

  if (box) {
    const KEY_STEPS = {
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
      ArrowUp: () => stepFigure(-1),
      ArrowDown: () => stepFigure(1),
    };
    for (const image of all(".gallery img, .neuron img")) {
      image.classList.add("zoom");
      image.addEventListener("click", () => enlarge(image));
      if (!("first" in image.dataset)) continue; // one stop of the tab key for each figure
      image.tabIndex = 0;
      image.setAttribute("role", "button");
      image.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        enlarge(image);
      });
    }
    box.addEventListener("keydown", (event) => {
      if (!(event.key in KEY_STEPS)) return;
      event.preventDefault();
      KEY_STEPS[event.key]();
    });
    box.addEventListener("click", (event) => {
      const { name } = event.target;
      if (name === "previous") step(-1);
      else if (name === "next") step(1);
      else if (name === "close" || event.target === box) box.close();
    });
    box.addEventListener("close", () => current.scrollIntoView({ block: "nearest", behavior: "instant" }));
  }

  window.addEventListener("beforeprint", () => {
    for (const image of document.images) image.loading = "eager";
  });
})();
