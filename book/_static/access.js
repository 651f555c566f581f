// What the theme leaves to do for readers who use keys, or who listen.

// What is wider than its place scrolls in a box of its own; this lets the keyboard reach the box.
// The theme does so for code and for what cells print, but not when a solution unfolds.
const BOXES = "figure, mjx-container, div.math, div.cell_output, div.output, table, pre";
function reach() {
  for (const box of document.querySelectorAll(`article :is(${BOXES})`)) {
    const scrolls = getComputedStyle(box).overflowX === "auto" && box.scrollWidth > box.clientWidth;
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

// The theme's arrow beside a page of several opens their list, and says nothing.
function nameArrows() {
  for (const summary of document.querySelectorAll("li.has-children > details > summary")) {
    const page = summary.closest("li").querySelector(":scope > a");
    if (page && !summary.innerText.trim()) summary.setAttribute("aria-label", `Pages of: ${page.textContent.trim()}`);
  }
}

// Docutils calls a bibliography a list, and gives its entries a role that no longer is an item's.
function itemise() {
  for (const entry of document.querySelectorAll("[role=list] > [role=doc-biblioentry]")) entry.setAttribute("role", "listitem");
}

window.addEventListener("load", () => {
  nameArrows();
  itemise();
  Promise.resolve(window.MathJax?.startup?.promise).then(reach);
  // A side bar that opens and a solution that unfolds resize the text, though not the window.
  const article = document.querySelector("article");
  if (article) new ResizeObserver(reach).observe(article);
});
