(() => {
  "use strict";

  // Sorting: a click on a heading sorts its column upwards, the next downwards, the third as it was.
  const number = (text) => parseFloat(text.replace(/,/g, "").replace("−", "-"));
  const compare = (numeric) => (a, b) => {
    if (!numeric) return a.localeCompare(b, "en", { numeric: true });
    const [x, y] = [number(a), number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? 0 : x - y;
  };
  const empty = (text) => text === "" || text === "–";

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    if (original.length < 2) continue;
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
        const order = next === undefined ? "ascending" : next;
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        if (order) heading.setAttribute("aria-sort", order);
        const text = (row) => row.cells[column].textContent.trim();
        const inOrder = compare(heading.classList.contains("n"));
        const sign = order === "descending" ? -1 : 1;
        const sorted = order === null ? original : [...original].sort((a, b) => {
          const [first, second] = [text(a), text(b)];
          return empty(first) - empty(second) || sign * inOrder(first, second); // what is missing stays last
        });
        body.append(...sorted);
      });
    });
  }

  // Filters: a row is shown if, in every group, no value is chosen or one of the row's own is.
  // The page's address may choose: audit.html?family=SEP&verdict=confirmed
  const asked = new URLSearchParams(location.search);

  for (const table of document.querySelectorAll("table[data-facets]")) {
    const facets = JSON.parse(table.dataset.facets); // [{name, values, chosen}]
    const rows = [...table.tBodies[0].rows];
    const owned = new Map(rows.map((row) => [row, facets.map((_, at) => row.getAttribute(`data-facet-${at}`).split("|"))]));
    const form = document.createElement("form");
    form.className = "filters";
    const given = facets.some((facet) => asked.has(facet.name));
    facets.forEach((facet, at) => {
      const group = document.createElement("fieldset");
      const legend = document.createElement("legend");
      legend.textContent = facet.name;
      group.append(legend);
      const chosen = given ? asked.getAll(facet.name) : facet.chosen;
      for (const value of facet.values) {
        const label = document.createElement("label");
        const box = Object.assign(document.createElement("input"), {
          type: "checkbox", name: facet.name, value, checked: chosen.includes(value), autocomplete: "off",
        });
        const count = document.createElement("span");
        count.textContent = rows.filter((row) => owned.get(row)[at].includes(value)).length;
        label.append(box, value, count);
        group.append(label);
      }
      form.append(group);
    });
    const state = document.createElement("p");
    state.className = "state";
    const found = document.createElement("span");
    found.setAttribute("role", "status");
    const all = Object.assign(document.createElement("button"), { type: "button", textContent: "Show all" });
    state.append(found, all);
    form.append(state);

    const boxes = [...form.querySelectorAll("input")];
    const update = () => {
      const chosen = facets.map((facet) => boxes.filter((box) => box.checked && box.name === facet.name).map((box) => box.value));
      let shown = 0;
      for (const row of rows) {
        const fits = chosen.every((values, at) => !values.length || values.some((value) => owned.get(row)[at].includes(value)));
        row.hidden = !fits;
        shown += fits;
      }
      found.textContent = `${shown} of ${rows.length} rows`;
      all.hidden = shown === rows.length;
    };
    form.addEventListener("change", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    all.addEventListener("click", () => {
      boxes.forEach((box) => { box.checked = false; });
      update();
    });
    table.parentElement.before(form);
    update();
    // An address that names a row shows it, whatever the filters leave out.
    const reveal = () => {
      const row = rows.find((one) => one.id && `#${one.id}` === location.hash);
      if (!row) return;
      if (row.hidden) all.click();
      row.scrollIntoView({ block: "center" });
    };
    addEventListener("hashchange", reveal);
    reveal();
  }

  // Contents: folded where it stands above the text, and marking the section that is read.
  const contents = document.querySelector(".toc");
  if (matchMedia("(max-width: 60rem)").matches) contents.open = false;
  const links = new Map([...contents.querySelectorAll("a")].map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
  const sections = [...links.keys()].map((anchor) => document.getElementById(anchor));
  const mark = () => {
    const read = sections.filter((section) => section.getBoundingClientRect().top < 120).at(-1) ?? sections[0];
    for (const [anchor, link] of links) {
      if (read && anchor === read.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  let due = false;
  addEventListener("scroll", () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; mark(); });
  }, { passive: true });
  mark();

  // On paper nothing is folded.
  const folded = () => [...document.querySelectorAll("main details:not([open])")];
  let opened = [];
  addEventListener("beforeprint", () => { opened = folded(); opened.forEach((one) => { one.open = true; }); });
  addEventListener("afterprint", () => { opened.forEach((one) => { one.open = false; }); });
})();
