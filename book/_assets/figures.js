// What is wider than its frame can also be scrolled by keyboard, and tells whether more follows.
{
  const mark = (frame) => {
    const hidden = frame.scrollWidth - frame.clientWidth;
    // MathJax lets the keyboard reach every formula, wide or not.
    if (hidden > 0 || frame.matches("mjx-container")) frame.tabIndex = 0;
    else frame.removeAttribute("tabindex");
    frame.toggleAttribute("data-more", hidden - frame.scrollLeft > 1);
  };
  const watcher = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));
  const watch = (selector) => {
    for (const frame of document.querySelectorAll(selector)) {
      watcher.observe(frame);
      frame.addEventListener("scroll", () => mark(frame));
    }
  };
  addEventListener("DOMContentLoaded", () => watch(".cell_output > figure, .cell_output .output"));
  addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    watch("div.math mjx-container");
  });
}
