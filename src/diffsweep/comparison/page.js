"use strict";
(() => {
  // Tables are sorted by a click on the name of a column, or by the address: #sort=fid, or #sort=-fid from high to low.
  const words = () => new URLSearchParams(location.hash.slice(1));
  const columnOf = (table, name) => [...table.tHead.rows[0].cells].find((cell) => cell.dataset.c === name);
  const valueOf = (row, place) => {
    const cell = row.cells[place];
    const text = cell.dataset.v ?? cell.textContent.trim();
    const number = text === "" ? NaN : Number(text.replace(/,/g, "").replace(/ ?(%|dB)$/, ""));
    return { text, number };
  };
  const compared = (a, b) => {
    if (Number.isFinite(a.number) && Number.isFinite(b.number)) return a.number - b.number;
    if (Number.isFinite(a.number) !== Number.isFinite(b.number)) return Number.isFinite(a.number) ? -1 : 1;
    return a.text.localeCompare(b.text, "en", { numeric: true });
  };
  const sort = (table, head, down) => {
    const place = head.cellIndex;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: valueOf(row, place) }));
    const [empty, full] = [rows.filter((each) => each.value.text === ""), rows.filter((each) => each.value.text !== "")];
    full.sort((a, b) => (down ? compared(b.value, a.value) : compared(a.value, b.value)));
    body.append(...full.map((each) => each.row), ...empty.map((each) => each.row));
    for (const cell of head.parentNode.cells) cell.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  const tables = [...document.querySelectorAll("table[data-sort]")];
  const follow = () => {
    for (const table of tables) {
      const wanted = words().get(table.dataset.sort);
      if (wanted === null) continue;
      const named = columnOf(table, wanted);
      const head = named ?? (wanted.startsWith("-") ? columnOf(table, wanted.slice(1)) : undefined);
      if (!head) continue;
      table.closest("details")?.setAttribute("open", "");
      sort(table, head, !named);
    }
  };
  for (const table of tables) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        sort(table, head, down);
        const address = words();
        address.set(table.dataset.sort, (down ? "-" : "") + head.dataset.c);
        history.replaceState(null, "", `#${address}`);
      });
    }
  }
  addEventListener("hashchange", follow);
  follow();

  // What is pointed at stands out in the charts.
  const point = (number) => {
    document.body.classList.toggle("pointed", number !== undefined);
    for (const each of document.querySelectorAll(".on")) each.classList.remove("on");
    if (number !== undefined) {
      for (const each of document.querySelectorAll(`.chart .v${number}`)) each.classList.add("on");
    }
  };
  document.addEventListener("pointerover", (event) => point(event.target.closest("[data-k]")?.dataset.k));

  // The choice of colours is kept for other pages and the next time, where the browser permits it.
  const key = "diffsweep-colours";
  const choices = [...document.querySelectorAll("input[name=theme]")];
  try {
    const kept = choices.find((choice) => choice.value === localStorage.getItem(key));
    if (kept) kept.checked = true;
    for (const choice of choices) choice.addEventListener("change", () => localStorage.setItem(key, choice.value));
  } catch {
    // private windows may refuse
  }
})();
