// What is wider than a phone scrolls in a box of its own; this lets the keyboard reach the box.
// The theme does so for code and for what cells print.
function reach() {
  for (const box of document.querySelectorAll("article :is(figure, mjx-container, div.math, div.cell_output, table)")) {
    if (box.hasAttribute("tabindex") && !("reached" in box.dataset)) continue;
    const scrolls = getComputedStyle(box).overflowX === "auto" && box.scrollWidth > box.clientWidth;
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
    box.toggleAttribute("data-reached", scrolls);
  }
}
window.addEventListener("load", () => Promise.resolve(window.MathJax?.startup?.promise).then(reach));
window.addEventListener("resize", reach);
